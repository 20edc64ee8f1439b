"""Two halves of one request: the first may be held for the second, and the second never outlives the first."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import orjson
import pytest

from lake.errors import JournalError
from lake.journal.disk import OsDisk
from lake.journal.frames import Frame
from lake.journal.pending import FramePosition, Pending
from lake.journal.reader import list_segments, read_segment
from lake.journal.writer import JournalWriter
from lake.schemas.records import FrameKind, RequestHalf, RetrievedItem

LONG_S = 60.0  # no held record is released by its own time within a test


class Disk(OsDisk):
    """The real one, whose next `fail` writes are refused."""

    fail = 0

    def write(self, fd: int, data: memoryview) -> int:
        if self.fail:
            self.fail -= 1
            raise OSError(errno.ENOSPC, "full")
        return super().write(fd, data)


def kinds(worker: Path) -> list[int]:
    """Kinds of all records, in their order on disk."""
    return [
        found.kind
        for segment in list_segments(worker)
        for found in read_segment(segment.path)
        if isinstance(found, Frame) and found.kind not in (FrameKind.SEGMENT_HEADER, FrameKind.WORKER_END)
    ]


async def position(pending: Pending) -> FramePosition:
    assert isinstance(pending.future, asyncio.Future)
    return await asyncio.wait_for(pending.future, 10)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_a_held_record_shares_the_sync_of_the_next_and_keeps_its_place(tmp_path: Path) -> None:
    async def halves(writer: JournalWriter) -> None:
        before = writer.counters
        first = writer.submit(FrameKind.REQUEST, {"n": 1}, hold_s=LONG_S)
        await asyncio.sleep(0.05)
        assert writer.counters.records == before.records  # still waits
        assert not first.future.done()
        second = writer.submit(FrameKind.RESPONSE, {"n": 2}, follows=first)
        a, b = await position(first), await position(second)
        assert (a.seq, b.seq) == (first.seq, second.seq) == (1, 2) and a.offset < b.offset
        assert writer.counters.syncs - before.syncs == 1

    with JournalWriter(tmp_path, role="w") as writer:
        run(halves(writer))
        assert kinds(writer.directory) == [FrameKind.REQUEST, FrameKind.RESPONSE]


def test_a_held_record_is_written_alone_when_its_time_is_over(tmp_path: Path) -> None:
    async def one(writer: JournalWriter) -> None:
        await position(writer.submit(FrameKind.REQUEST, {"n": 1}, hold_s=0.01))
        await position(writer.submit(FrameKind.REQUEST, {"n": 2}, hold_s=0.01))
        assert writer.counters.records == 2

    with JournalWriter(tmp_path, role="w") as writer:
        run(one(writer))


def test_the_end_writes_what_is_held(tmp_path: Path) -> None:
    async def one(writer: JournalWriter) -> None:
        pending = writer.submit(FrameKind.REQUEST, {"n": 1}, hold_s=LONG_S)
        await writer.aclose()
        assert (await position(pending)).seq == 1

    writer = JournalWriter(tmp_path, role="w")
    run(one(writer))
    assert kinds(writer.directory) == [FrameKind.REQUEST]


def test_group_mode_holds_nothing_back(tmp_path: Path) -> None:
    async def one(writer: JournalWriter) -> None:
        await position(writer.submit(FrameKind.REQUEST, {"n": 1}, hold_s=LONG_S))

    with JournalWriter(tmp_path, role="w", mode="group") as writer:
        run(one(writer))


@pytest.mark.parametrize("together", [True, False])
def test_a_second_half_is_not_written_where_the_first_failed(tmp_path: Path, together: bool) -> None:
    async def halves(writer: JournalWriter) -> None:
        disk.fail = 1
        first = writer.submit(FrameKind.REQUEST, {"n": 1}, hold_s=LONG_S if together else 0)
        if not together:
            with pytest.raises(JournalError):
                await position(first)
        second = writer.submit(FrameKind.RESPONSE, {"n": 2}, follows=first)
        for pending in [first, second]:
            with pytest.raises(JournalError, match="log_unavailable"):
                await position(pending)
        await writer.append(FrameKind.REVIEW, {"n": 3})  # and the journal heals
        assert writer.healthy and writer.counters.waiting_bytes == 0

    disk = Disk()
    with JournalWriter(tmp_path, role="w", disk=disk) as writer:
        run(halves(writer))
        assert kinds(writer.directory) == [FrameKind.REVIEW]


def test_a_release_that_comes_too_late_leaves_nobody_asleep(tmp_path: Path) -> None:
    """A thread that looked before its record was taken, and was heard after, once let the next ones wait for ever."""
    with JournalWriter(tmp_path, role="w") as writer:
        late = Pending(b"", 0, Future(), None)
        with writer._wake:
            releasing = threading.Thread(target=writer._release, args=(late,))
            releasing.start()
            time.sleep(0.05)
            late.taken = True
        releasing.join(10)
        found: list[FramePosition] = []
        put = threading.Thread(
            target=lambda: found.append(writer.append_blocking(FrameKind.REVIEW, {"n": 1})), daemon=True
        )
        put.start()
        put.join(10)
        assert found and found[0].seq == 1


def test_a_record_is_the_same_json_as_its_payload(tmp_path: Path) -> None:
    item = RetrievedItem(1, 0.5, "a", "이름", "https://a.b", "설명", "설명", ["x"], "c", {"dense": 0.25})
    half = RequestHalf("01J", "2026-11-25T00:00:00+00:00", "질문", "ko", 3, [item], "p", "s", "t", "v", "e")
    with JournalWriter(tmp_path, role="w") as writer:
        writer.append_blocking(FrameKind.REQUEST, half)
        writer.append_blocking(FrameKind.REQUEST, half.payload())
        frames = [found for found in read_segment(writer.directory / "00000001.mjl") if isinstance(found, Frame)]
    written, copied = frames[1].payload, frames[2].payload
    assert written == copied and orjson.loads(written)["retrieved_items"][0]["scores"] == {"dense": 0.25}
