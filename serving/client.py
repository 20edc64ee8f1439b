"""Asks one LLM server over the OpenAI protocol, and comes back by the deadline with an answer or a typed error.

One client belongs to one immutable backend. Invariants: no call outlasts its deadline; bodies are bounded; a completion
has no side effect, so it is tried again where the retry budget allows it and no text has come yet; a caller that goes
away, or closes its stream, ends the call and with it the server's work.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import orjson

from lake.errors import BackendBadAnswer, BackendError, BackendOverloaded, BackendRefused, BackendTimeout
from serving.answers import ChatAnswer, ModelCard, parse_chat, parse_models
from serving.backends import PROFILES, Backend
from serving.chat_stream import ChatStream
from serving.retry import RetryBudget, backoff_s
from serving.upstream import Deadline, Retriable, Upstream, check_status

MAX_RESPONSE_BYTES = 2 << 20
MAX_ATTEMPTS = 3
_STREAM_OVERHEAD = 32  # a stream may be this many times larger than its text: every token comes in a chunk of its own
_FAREWELL_S = 2.0
_PROBE_PAUSE_S = 1.0
_JSON = {"Content-Type": "application/json"}

Messages = Sequence[Mapping[str, str]]


class LLMClient:
    """For one event loop. `budget` is shared between clients."""

    def __init__(
        self,
        backend: Backend,
        *,
        budget: RetryBudget | None = None,
        connect_timeout_s: float = 3.0,
        max_connections: int = 128,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self.backend = backend
        self._max_attempts = max_attempts
        self.retries = 0
        self._budget = budget or RetryBudget()
        self._max_response_bytes = max_response_bytes
        self._upstream = Upstream(backend, connect_timeout_s, max_connections)
        self._asks_usage = True  # until the server refuses `stream_options`

    async def chat(
        self,
        messages: Messages,
        max_tokens: int,
        temperature: float = 0.0,
        deadline_s: float = 60.0,
        stop: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        *,
        on_retry: Callable[[], None] | None = None,
        new_request: bool = True,
        extra: Mapping[str, Any] | None = None,
    ) -> ChatAnswer:
        """One completion within `deadline_s`. Raises the `BackendError` family and nothing else.

        `new_request` False: the same request was already asked of another server, the retry budget does not grow by it.
        `extra`: further fields of the request's body; one that is None is left out.
        """
        deadline = Deadline(deadline_s)
        body = self._body(messages, max_tokens, temperature, stop, stream=False, extra=extra)
        sent = {**_JSON, **headers} if headers else _JSON
        return parse_chat(await self._call("POST", "/chat/completions", body, sent, deadline, on_retry, new_request))

    async def stream(
        self,
        messages: Messages,
        max_tokens: int,
        temperature: float = 0.0,
        deadline_s: float = 60.0,
        stop: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
        *,
        on_retry: Callable[[], None] | None = None,
        new_request: bool = True,
        first_piece_s: float | None = None,
    ) -> AsyncGenerator[str | ChatAnswer, None]:
        """Pieces of text as they come, then exactly one `ChatAnswer` with the whole; all within `deadline_s`, and the
        first piece within `first_piece_s`.

        Raises the `BackendError` family and nothing else; `detail["partial"]` is the text that had come, where an
        answer had begun. Tries again only before the first piece. Closing the iterator ends the server's work.
        """
        deadline = Deadline(deadline_s)
        first = deadline if first_piece_s is None else deadline.within(first_piece_s)
        sent = {**_JSON, **headers} if headers else _JSON
        if new_request:
            self._budget.note_call()
        reading = ChatStream(self._max_response_bytes)
        for attempt in range(1, self._max_attempts + 1):
            body = self._body(messages, max_tokens, temperature, stop, stream=True)
            try:
                async with aclosing(self._pieces(body, sent, reading, first, deadline)) as pieces:
                    async for piece in pieces:
                        yield piece
            except Retriable as failure:
                if reading.whole:
                    break  # only the farewell is missing
                if reading.began:
                    message = "The LLM server broke off in the middle of its answer: see its log."
                    raise BackendBadAnswer(message, partial=reading.text) from failure
                await self._pause(attempt, failure, first, on_retry)
                reading = ChatStream(self._max_response_bytes)
            except BackendTimeout as error:
                if not reading.whole:
                    error.detail["partial"] = reading.text
                    raise
                break
            except BackendError as error:
                error.detail["partial"] = reading.text
                raise
            else:
                break
        yield reading.answer()

    async def list_models(self, deadline_s: float = 10.0) -> list[ModelCard]:
        """What `/v1/models` lists: what is served, or (LM Studio, Ollama) what could be loaded."""
        return parse_models(await self._call("GET", "/models", None, None, Deadline(deadline_s)))

    async def probe(self, deadline_s: float | None = None) -> ChatAnswer:
        """A real one-token completion: the only proof that this model answers here. May load it first; while the server
        says that it is loading (503), it is asked again every second.
        """
        deadline = Deadline(deadline_s or PROFILES[self.backend.profile].probe_timeout_s)
        while True:
            try:
                return await self.chat(
                    [{"role": "user", "content": "안녕"}], max_tokens=1, deadline_s=max(0.001, deadline.left_s())
                )
            except BackendOverloaded:
                if deadline.left_s() <= _PROBE_PAUSE_S:
                    raise
                await asyncio.sleep(_PROBE_PAUSE_S)

    @property
    def unfinished(self) -> int:
        """Calls under way."""
        return self._upstream.open

    async def aclose(self) -> None:
        """Close the connections; calls under way end with an error. Safe to repeat."""
        await self._upstream.aclose()

    def _body(
        self,
        messages: Messages,
        max_tokens: int,
        temperature: float,
        stop: Sequence[str],
        *,
        stream: bool,
        extra: Mapping[str, Any] | None = None,
    ) -> bytes:
        body: dict[str, Any] = {
            "model": self.backend.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stream": stream,
        }
        if stop:
            body["stop"] = list(stop)
        if stream and self._asks_usage:
            body["stream_options"] = {"include_usage": True}
        if extra:
            body = {name: value for name, value in {**body, **extra}.items() if value is not None}
        try:
            return orjson.dumps(body)
        except orjson.JSONEncodeError as error:
            raise BackendRefused(f"The messages can't be sent as JSON ({error}): send plain text.") from error

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        deadline: Deadline,
        on_retry: Callable[[], None] | None = None,
        new_request: bool = True,
    ) -> bytes:
        if new_request:
            self._budget.note_call()
        for attempt in range(1, self._max_attempts + 1):
            try:
                async with self._upstream.exchange(method, path, body, headers, deadline) as response:
                    answer = await self._upstream.whole_body(response, self._max_response_bytes, deadline)
                    check_status(response.status, response.headers.get("retry-after"), answer, self.backend)
                    return answer
            except Retriable as failure:
                await self._pause(attempt, failure, deadline, on_retry)
        raise AssertionError("unreachable")

    async def _pieces(
        self, body: bytes, headers: Mapping[str, str], reading: ChatStream, first: Deadline, deadline: Deadline
    ) -> AsyncGenerator[str, None]:
        """One attempt at a streamed answer. A server that does not stream gives one piece."""
        async with self._upstream.exchange("POST", "/chat/completions", body, headers, first) as response:
            if response.status != 200 or response.content_type != "text/event-stream":
                answer = await self._upstream.whole_body(response, self._max_response_bytes, first)
                self._note_refusal(response.status, answer)
                check_status(response.status, response.headers.get("retry-after"), answer, self.backend)
                for piece in reading.take_whole(parse_chat(answer)):
                    yield piece
                return
            size, farewell = 0, False
            while data := await self._upstream.next_bytes(response, deadline if reading.began else first):
                size += len(data)
                if size > self._max_response_bytes * _STREAM_OVERHEAD:
                    raise BackendBadAnswer(f"The LLM server's stream is larger than {size} bytes: see its log.")
                for piece in reading.feed(data):
                    yield piece
                if reading.done:
                    return
                if reading.whole and not farewell:  # usage and [DONE] come now, or never
                    farewell, deadline = True, deadline.within(_FAREWELL_S)
            for piece in reading.end():
                yield piece

    def _note_refusal(self, status: int, body: bytes) -> None:
        """A server that does not know `stream_options` is asked again without, from now on."""
        if self._asks_usage and status in (400, 422) and b"stream_options" in body:
            self._asks_usage = False
            raise Retriable(
                BackendRefused(f"The LLM server refuses `stream_options` ({status}): ask again.", status=status)
            )

    async def _pause(
        self, attempt: int, failure: Retriable, deadline: Deadline, on_retry: Callable[[], None] | None
    ) -> None:
        """Wait before the next attempt. Raises the failure's error where there is none."""
        pause_s = backoff_s(attempt, failure.retry_after)
        if attempt == self._max_attempts or pause_s >= deadline.left_s() or not self._budget.take():
            if failure.retry_after is not None:
                failure.error.detail["wait_s"] = pause_s  # as the server asked
            raise failure.error from failure.__cause__
        self.retries += 1
        if on_retry is not None:
            on_retry()
        await asyncio.sleep(pause_s)
