"""Writes what a request was and became: to the journal, and without its text where the caller opted out.

The halves of an opted-out request go twice: text-free into the journal that is ingested, whole into the private one.
Invariant: `begin`, `end` and `say` return only after every record they wrote is as durable as the journal's mode says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from lake.errors import JournalError
from lake.journal.private import PrivateJournal
from lake.journal.writer import FramePosition
from lake.schemas.records import FeedbackRecord, FrameKind, RequestHalf, ResponseHalf, ReviewRecord

_Result = TypeVar("_Result")


class Journal(Protocol):
    """What is needed of `JournalWriter`."""

    async def append(self, kind: FrameKind, payload: dict[str, Any]) -> FramePosition: ...

    @property
    def healthy(self) -> bool: ...


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

    async def begin(self, half: RequestHalf) -> int:
        """Write the request half; its sequence number in the journal. Raises `JournalError`."""
        if half.store:
            return await self._append(FrameKind.REQUEST, half.payload())
        return await self._twice(FrameKind.REQUEST, half.without_text().payload(), half.payload())

    async def end(self, half: ResponseHalf, store: bool) -> None:
        """Write the response half. Raises `JournalError`."""
        if store:
            await self._append(FrameKind.RESPONSE, half.payload())
        else:
            await self._twice(FrameKind.RESPONSE, half.without_text().payload(), half.payload())

    async def say(self, record: FeedbackRecord, store: bool) -> None:
        """Write feedback; `store` is the request's. Raises `JournalError`."""
        if store:
            await self._append(FrameKind.FEEDBACK, record.payload())
        else:
            await self._twice(FrameKind.FEEDBACK, record.without_text().payload(), record.payload())

    async def review(self, record: ReviewRecord) -> None:
        """Write a golden answer. Raises `JournalError`."""
        await self._append(FrameKind.REVIEW, record.payload())

    async def _append(self, kind: FrameKind, payload: dict[str, Any]) -> int:
        return (await self._in_time(self._journal.append(kind, payload))).seq

    async def _twice(self, kind: FrameKind, public: dict[str, Any], private: dict[str, Any]) -> int:
        async def both() -> FramePosition:
            written, _ = await asyncio.gather(self._journal.append(kind, public), self._private.append(kind, private))
            return written

        return (await self._in_time(both())).seq

    async def _in_time(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        try:
            return await asyncio.wait_for(work, self._timeout_s)
        except TimeoutError as error:
            raise JournalError(
                f"The journal did not take the record within {self._timeout_s:.0f} s (log_unavailable): check the disk."
            ) from error
