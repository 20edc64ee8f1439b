"""The two ends of one streamed answer: the search's task writes, the HTTP response reads.

Invariant: after `opened` returned, the reader gets the pieces in order and then exactly one `SearchResult` or one
error, within the time limit; the writer never waits for the reader (an answer is bounded by its tokens).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

from gateway.asks import SearchResult
from serving.retriever import Retrieval


class SearchStream:
    """`limit_s`: seconds from now within which it ends; `too_late` makes the error that is raised then."""

    def __init__(self, request_id: str, limit_s: float, too_late: Callable[[], Exception]) -> None:
        self.request_id = request_id
        self.abandoned = False
        self._ends_at = time.monotonic() + limit_s
        self._too_late = too_late
        self._events: asyncio.Queue[Retrieval | str | SearchResult | Exception] = asyncio.Queue()
        self._found: Retrieval | None = None

    @property
    def found(self) -> Retrieval:
        """What was retrieved; only once the stream is open."""
        assert self._found is not None
        return self._found

    def open(self, found: Retrieval) -> None:
        """The writer: the request half is durable."""
        self._events.put_nowait(found)

    def piece(self, text: str) -> None:
        """The writer: more of the answer."""
        self._events.put_nowait(text)

    def end(self, result: SearchResult) -> None:
        """The writer: the response half is durable."""
        self._events.put_nowait(result)

    def fail(self, error: Exception) -> None:
        """The writer: nothing more will come."""
        self._events.put_nowait(error)

    async def opened(self) -> None:
        """The reader: wait for `open`. Raises what the writer failed with before, or the time-limit error."""
        first = await self._next(None)
        if isinstance(first, Exception):
            raise first
        assert isinstance(first, Retrieval)
        self._found = first

    async def events(self, heartbeat_s: float) -> AsyncIterator[str | SearchResult | None]:
        """The reader: pieces, then the result; None after `heartbeat_s` of silence.

        Raises what the writer failed with, or the time-limit error.
        """
        while True:
            event = await self._next(heartbeat_s)
            if isinstance(event, Exception):
                raise event
            assert not isinstance(event, Retrieval)
            yield event
            if isinstance(event, SearchResult):
                return

    def abandon(self) -> None:
        """The reader: the client has gone. Safe to repeat and after the end."""
        self.abandoned = True

    async def _next(self, heartbeat_s: float | None) -> Retrieval | str | SearchResult | Exception | None:
        if not self._events.empty():
            return self._events.get_nowait()
        left_s = self._ends_at - time.monotonic()
        wait_s = left_s if heartbeat_s is None else min(left_s, heartbeat_s)
        try:
            return await asyncio.wait_for(self._events.get(), max(0.0, wait_s))
        except TimeoutError:
            if time.monotonic() < self._ends_at:
                return None
            self.abandoned = True
            return self._too_late()
