"""Writes what a request was and became: to the journal, and without its text where the caller opted out.

The halves of an opted-out request go twice: text-free into the journal that is ingested, whole into the private one.
The request half is on its way while the LLM works; of an answer that comes at once both halves share one sync.
Invariants: `settled`, `end`, `say` and `review` return only after every record they name is as durable as the journal's
mode says; no response half is written whose request half failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, cast

from lake.errors import JournalError
from lake.journal.pending import FramePosition, Pending
from lake.journal.private import PrivateJournal
from lake.schemas.records import FeedbackRecord, FrameKind, Record, RequestHalf, ResponseHalf, ReviewRecord

# A request half waits this long for its second half before it is synced alone. Longer than a sync takes, so that quick
# answers pay for one; far shorter than an LLM takes, so that slow ones never wait for it.
HOLD_S = 0.01


class Journal(Protocol):
    """What is needed of `JournalWriter`."""

    def submit(
        self, kind: FrameKind, record: Record, *, hold_s: float = 0.0, follows: Pending | None = None
    ) -> Pending: ...

    @property
    def healthy(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Begun:
    """A request half on its way; `private` where it goes twice."""

    public: Pending
    private: asyncio.Task[FramePosition] | None = None

    @property
    def seq(self) -> int:
        """Its sequence number in the journal that is ingested."""
        return self.public.seq


class Recorder:
    """`timeout_s`: longest wait for the disk before a request is refused; the write goes on by itself then."""

    def __init__(self, journal: Journal, private: PrivateJournal, timeout_s: float) -> None:
        self._journal = journal
        self._private = private
        self._timeout_s = timeout_s

    @property
    def healthy(self) -> bool:
        """Whether records can be made durable now."""
        return self._journal.healthy

    def begin(self, half: RequestHalf, *, hold: bool = False) -> Begun:
        """Send the request half on its way; `hold`: nobody waits for it yet. Raises `JournalError`."""
        hold_s = HOLD_S if hold else 0.0
        public = self._journal.submit(FrameKind.REQUEST, half if half.store else half.without_text(), hold_s=hold_s)
        public.future.add_done_callback(_read)  # where it fails, the response half fails with it
        if half.store:
            return Begun(public)
        private = asyncio.create_task(self._private.append(FrameKind.REQUEST, half))
        private.add_done_callback(_read)
        return Begun(public, private)

    async def settled(self, begun: Begun) -> None:
        """Wait until the request half is durable. Raises `JournalError`."""
        await self._in_time(begun.public)
        if begun.private is not None:
            await self._in_time(begun.private)

    async def end(self, half: ResponseHalf, begun: Begun) -> None:
        """Write the response half; both are durable on return. Raises `JournalError`."""
        if begun.private is None:
            await self._in_time(self._journal.submit(FrameKind.RESPONSE, half, follows=begun.public))
        else:
            await self._in_time(begun.private)
            await self._twice(
                self._journal.submit(FrameKind.RESPONSE, half.without_text(), follows=begun.public),
                self._private.append(FrameKind.RESPONSE, half),
            )

    async def say(self, record: FeedbackRecord, store: bool) -> None:
        """Write feedback; `store` is the request's. Raises `JournalError`."""
        if store:
            await self._in_time(self._journal.submit(FrameKind.FEEDBACK, record))
        else:
            await self._twice(
                self._journal.submit(FrameKind.FEEDBACK, record.without_text()),
                self._private.append(FrameKind.FEEDBACK, record),
            )

    async def review(self, record: ReviewRecord) -> None:
        """Write a golden answer. Raises `JournalError`."""
        await self._in_time(self._journal.submit(FrameKind.REVIEW, record))

    async def _twice(self, public: Pending, private: Awaitable[FramePosition]) -> None:
        public.future.add_done_callback(_read)
        await self._in_time(private)
        await self._in_time(public)

    async def _in_time(self, work: Pending | Awaitable[FramePosition]) -> None:
        awaited = cast("asyncio.Future[FramePosition]", work.future) if isinstance(work, Pending) else work
        try:
            async with asyncio.timeout(self._timeout_s):
                await awaited
        except TimeoutError as error:
            raise JournalError(
                f"The journal did not take the record within {self._timeout_s:.0f} s (log_unavailable): check the disk."
            ) from error


def _read(done: Future[FramePosition] | asyncio.Future[FramePosition]) -> None:
    """Nobody may be left to ask for this error: asking once keeps asyncio from reporting it as forgotten."""
    if not done.cancelled():
        done.exception()
