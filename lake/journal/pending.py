"""Records on their way to the disk, and what became of them: the values between callers and the journal's thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass
from typing import cast

from lake.errors import JournalError


@dataclass(frozen=True, slots=True)
class FramePosition:
    """Where a record lies: file name within the worker directory, byte offset, sequence number."""

    segment: str
    offset: int
    seq: int


@dataclass(frozen=True, slots=True)
class JournalCounters:
    """Totals since the start; `failures` counts failed writes, syncs and openings, not records."""

    records: int
    bytes: int
    syncs: int
    failures: int
    rejected: int
    waiting_bytes: int


@dataclass(slots=True, eq=False)
class Pending:
    """A record on its way to the disk: its sequence number, and the future of its position or `JournalError`."""

    frame: bytes  # empty: a probe
    seq: int
    future: Future[FramePosition] | asyncio.Future[FramePosition]
    loop: asyncio.AbstractEventLoop | None
    follows: Pending | None = None
    taken: bool = False  # by the thread
    failed: bool = False


Result = tuple[Pending, FramePosition | JournalError]


def resolve(results: list[Result]) -> None:
    """Answer the callers, on their own loop or from any thread where they have none."""
    for item, result in results:
        future = cast("Future[FramePosition]", item.future)
        if future.done():  # cancelled while it waited
            continue
        if isinstance(result, JournalError):
            future.set_exception(result)
        else:
            future.set_result(result)
