"""Reads a streamed chat completion: chunks of bytes in, pieces of text out, one whole answer at the end. Pure.

What the servers do differently: usage stands in a chunk without choices (vLLM, llama.cpp, LM Studio), beside the last
choice (Ollama) or nowhere; errors come as `{"error": ...}` chunks (vLLM, Ollama, llama.cpp), under `event: error` (LM
Studio) or as an `error:` line (older llama.cpp); some end without `[DONE]`.

Invariant: whatever the bytes are, the result is pieces and an answer, or an error of the `BackendError` family; the
answer's text is the pieces joined. An answer is whole only with a finish reason or `[DONE]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import orjson

from lake.errors import BackendBadAnswer, BackendError
from serving.answers import ChatAnswer, count_or_none, error_text, text_or_none
from serving.sse import DONE, Event, EventReader, EventTooLong


class ChatStream:
    """One answer being read. `max_bytes` bounds each event, and the text of the whole answer."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._events = EventReader(max_bytes)
        self._pieces: list[str] = []
        self._text_bytes = 0
        self._finish_reason: str | None = None
        self._prompt_tokens: int | None = None
        self._completion_tokens: int | None = None
        self._model = ""
        self.done = False  # [DONE] was read: nothing follows

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self._pieces)

    @property
    def began(self) -> bool:
        """Whether any text has come."""
        return bool(self._pieces)

    @property
    def whole(self) -> bool:
        """Whether the answer is complete, even if the server says no more."""
        return self.done or self._finish_reason is not None

    def feed(self, data: bytes) -> Iterator[str]:
        """The non-empty pieces of text in `data`; take them all. Raises the `BackendError` family."""
        return self._read(self._events.feed(data))

    def end(self) -> Iterator[str]:
        """The pieces that the end of the stream completes; `BackendBadAnswer` where the answer is not whole then."""
        yield from self._read(self._events.end())
        if not self.whole:
            raise BackendBadAnswer("The LLM server's stream ended in the middle of its answer: see its log.")

    def take_whole(self, answer: ChatAnswer) -> Iterator[str]:
        """An answer that came in one piece, from a server that did not stream."""
        self.done = True
        self._finish_reason, self._model = answer.finish_reason, answer.model
        self._prompt_tokens, self._completion_tokens = answer.prompt_tokens, answer.completion_tokens
        if answer.text:
            self._pieces.append(answer.text)
            yield answer.text

    def answer(self) -> ChatAnswer:
        """The whole answer; ask for it after `end`."""
        return ChatAnswer(
            text=self.text,
            finish_reason=self._finish_reason,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            model=self._model,
        )

    def _read(self, events: Iterator[Event]) -> Iterator[str]:
        try:
            for event in events:
                if self.done:
                    return
                if event.data == DONE:
                    self.done = True
                elif event.name == "error":
                    raise BackendError(f"The LLM server reports an error{error_text(event.data)}: see its log.")
                elif piece := self._chunk(event.data):
                    self._text_bytes += len(piece.encode())
                    if self._text_bytes > self._max_bytes:
                        raise BackendBadAnswer(f"The LLM server's answer is larger than {self._max_bytes} bytes.")
                    self._pieces.append(piece)
                    yield piece
        except EventTooLong as error:
            raise BackendBadAnswer(f"The LLM server's stream can't be read: {error}.") from error

    def _chunk(self, data: bytes) -> str:
        """The text of one chunk; notes what else it says."""
        try:
            parsed = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise BackendBadAnswer(f"A chunk of the LLM server's stream is not JSON ({error}): see its log.") from error
        if not isinstance(parsed, dict):
            raise BackendBadAnswer("A chunk of the LLM server's stream is not a JSON object: see its log.")
        chunk = cast(dict[str, Any], parsed)
        if chunk.get("error"):
            raise BackendError(f"The LLM server reports an error{error_text(data)}: see its log.")
        self._model = text_or_none(chunk.get("model")) or self._model
        if isinstance(usage := chunk.get("usage"), dict):
            counts = cast(dict[str, Any], usage)
            self._prompt_tokens = count_or_none(counts.get("prompt_tokens"))
            self._completion_tokens = count_or_none(counts.get("completion_tokens"))
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            if choices is None:
                return ""  # a chunk of usage or a sign of life
            raise BackendBadAnswer("A chunk of the LLM server's stream has choices of a wrong type: see its log.")
        return self._choice(cast(list[Any], choices))

    def _choice(self, choices: list[Any]) -> str:
        for choice in choices:
            if not isinstance(choice, dict):
                raise BackendBadAnswer("A chunk of the LLM server's stream has a choice of a wrong type: see its log.")
            fields = cast(dict[str, Any], choice)
            if fields.get("index") not in (None, 0):
                continue  # one answer was asked for
            self._finish_reason = text_or_none(fields.get("finish_reason")) or self._finish_reason
            delta = fields.get("delta")
            content = cast(dict[str, Any], delta).get("content") if isinstance(delta, dict) else None
            if content is not None and not isinstance(content, str):
                raise BackendBadAnswer("A chunk of the LLM server's stream has content of a wrong type: see its log.")
            return content or ""
        return ""
