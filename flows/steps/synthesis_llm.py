"""The asking part of the synthesis: bounded concurrency, and a cache that lets a killed run go on.

Writes `<cache_dir>/<run_id>.jsonl`. Retries and time limits are the client's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import orjson

from flows.steps.synthesis_asks import STOP, Ask
from lake.errors import BackendError
from lake.progress import Progress
from serving.answers import ChatAnswer


class ChatClient(Protocol):
    """The part of `LLMClient` that is used."""

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        max_tokens: int,
        temperature: float = 0.0,
        deadline_s: float = 60.0,
        stop: Sequence[str] = (),
    ) -> ChatAnswer: ...

    async def aclose(self) -> None: ...


class AnswerCache:
    """Answers of one run by content hash, a JSON line each; a torn last line is ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._answers: dict[str, ChatAnswer] = {}
        torn = False
        for line in path.read_bytes().splitlines(keepends=True) if path.exists() else []:
            torn = not line.endswith(b"\n")
            try:
                value = orjson.loads(line)
                key = value.pop("key")
                self._answers[key] = ChatAnswer(**value)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if torn:
            with path.open("ab") as handle:
                handle.write(b"\n")

    def get(self, key: str) -> ChatAnswer | None:
        return self._answers.get(key)

    def put(self, key: str, answer: ChatAnswer) -> None:
        """Kept at once; losing the last line in a crash costs one ask."""
        self._answers[key] = answer
        with self._path.open("ab") as handle:
            handle.write(orjson.dumps({"key": key, **asdict(answer)}, option=orjson.OPT_APPEND_NEWLINE))


async def ask_all(
    asks: Sequence[Ask],
    model: str,
    client: ChatClient,
    cache: AnswerCache,
    concurrency: int,
    deadline_s: float,
    progress: Progress,
) -> tuple[list[ChatAnswer | BackendError], int]:
    """An answer or an error for each ask, in order, and how many came from the cache."""
    gate = asyncio.Semaphore(concurrency)

    async def one(ask: Ask) -> ChatAnswer | BackendError:
        key = ask.key(model)
        answer = cache.get(key)
        if answer is None:
            async with gate:
                try:
                    answer = await client.chat(ask.messages, ask.max_tokens, ask.temperature, deadline_s, STOP)
                except BackendError as error:
                    progress.advance(note=error.code)
                    return error
            cache.put(key, answer)
        progress.advance(note=ask.tool.id)
        return answer

    cached = sum(cache.get(ask.key(model)) is not None for ask in asks)
    try:
        return list(await asyncio.gather(*(one(ask) for ask in asks))), cached
    finally:
        await client.aclose()
