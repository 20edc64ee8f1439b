"""An open-loop load: requests leave at their own times, whether or not earlier ones were answered.

A closed loop would wait for a slow server and hide its slowness. Latency runs from the moment at which a request was
due. Connections are kept alive and reused; a new one is opened where none is free.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import uvloop

from tests.faults.clients import Question, Reply, parse

_LIMIT_S = 30.0


@dataclass(slots=True)
class LoadResult:
    """`latencies_s` of answered requests, `refused_s` of refused ones (429, 503), both from when they were due."""

    statuses: Counter[int] = field(default_factory=Counter[int])
    latencies_s: list[float] = field(default_factory=list[float])
    refused_s: list[float] = field(default_factory=list[float])
    problems: list[str] = field(default_factory=list[str])  # anything but an answer or a proper refusal
    answered_ids: set[str] = field(default_factory=set[str])
    late_s: float = 0.0  # longest delay of our own sending
    seconds: float = 0.0

    @property
    def goodput(self) -> float:
        """Answered requests a second."""
        return self.statuses[200] / self.seconds if self.seconds else 0.0


class OpenLoop:
    """Load on one gateway. `stream_share`: part of the requests that ask for a stream."""

    def __init__(self, url: str, seed: int, stream_share: float = 0.2) -> None:
        self._url = url
        self._address = urlsplit(url)
        self._rng = random.Random(seed)
        self._stream_share = stream_share
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._result = LoadResult()

    def run(self, per_s: float, seconds: float, tick: Callable[[float], None] = lambda _: None) -> LoadResult:
        """Poisson arrivals of `per_s` a second for `seconds`; `tick` is told the elapsed seconds about once each."""
        self._result = LoadResult()
        uvloop.run(self._run(per_s, seconds, tick))
        return self._result

    async def _run(self, per_s: float, seconds: float, tick: Callable[[float], None]) -> None:
        self._idle.clear()
        began = time.perf_counter()
        due, told = 0.0, 0
        open_calls: set[asyncio.Task[None]] = set()
        while due < seconds:
            now = time.perf_counter() - began
            if now < due:
                await asyncio.sleep(due - now)
                continue
            self._result.late_s = max(self._result.late_s, now - due)
            task = asyncio.create_task(self._one(began + due))
            open_calls.add(task)
            task.add_done_callback(open_calls.discard)
            due += self._rng.expovariate(per_s)
            if int(now) > told:
                told = int(now)
                tick(now)
        await asyncio.gather(*open_calls)
        self._result.seconds = time.perf_counter() - began
        for _, writer in self._idle:
            writer.transport.abort()

    async def _one(self, due: float) -> None:
        question = Question.draw(self._rng, self._stream_share)
        try:
            async with asyncio.timeout(_LIMIT_S):
                question = replace(question, text=f"{question.text} {self._rng.randrange(10**6)}")
                reply = await self._exchange(question.request(self._url, connection="keep-alive"))
        except (OSError, TimeoutError) as error:
            self._problem(f"{type(error).__name__} {error}")
            return
        seconds = time.perf_counter() - due
        self._result.statuses[reply.status] += 1
        if reply.answered:
            self._result.latencies_s.append(seconds)
            self._result.answered_ids.add(reply.request_id)
        elif reply.status in (429, 503) and reply.headers.get("content-type") == "application/problem+json":
            self._result.refused_s.append(seconds)
        else:
            self._problem(f"{reply.status} {reply.body[-200:]!r}")

    def _problem(self, text: str) -> None:
        self._result.problems.append(text)

    async def _exchange(self, request: bytes) -> Reply:
        """One request on a connection that is free; once more on a new one where the kept one had been closed."""
        while self._idle:
            reader, writer = self._idle.pop()
            writer.write(request)
            reply = await self._read(reader, writer)
            if reply is not None:
                return reply
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        writer.write(request)
        reply = await self._read(reader, writer)
        if reply is None:
            raise ConnectionError("a new connection was closed without an answer")
        return reply

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Reply | None:
        """The answer; None where the connection was closed before its first byte (an idle one, timed out)."""
        data = b""
        try:
            while piece := await reader.read(1 << 16):
                data += piece
                reply = parse(data, at_end=False)
                if reply is not None and reply.whole:
                    if reply.headers.get("connection") == "close":
                        writer.transport.abort()
                    else:
                        self._idle.append((reader, writer))
                    return reply
        except OSError:
            if data:
                raise
        writer.transport.abort()
        if data:
            raise ConnectionError(f"the answer broke off: {data[-100:]!r}")
        return None
