"""The writer: durable before it returns, one sync a batch, bounded, and it survives its callers."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import orjson
import pytest

from lake.errors import JournalError
from lake.journal.disk import OsDisk
from lake.journal.frames import Frame
from lake.journal.reader import is_worker_alive, list_segments, list_workers, read_frame, read_segment
from lake.journal.writer import FramePosition, JournalWriter
from lake.schemas.records import FrameKind


def records(worker: Path) -> list[int]:
    """The numbers of all REVIEW records of a worker, in order."""
    return [
        orjson.loads(found.payload)["n"]
        for segment in list_segments(worker)
        for found in read_segment(segment.path)
        if isinstance(found, Frame) and found.kind == FrameKind.REVIEW
    ]


def put(writer: JournalWriter, n: int) -> FramePosition:
    return writer.append_blocking(FrameKind.REVIEW, {"n": n})


def test_a_record_lies_where_the_position_says(tmp_path: Path) -> None:
    with JournalWriter(tmp_path / "journal", role="gateway") as writer:
        for n in range(3):
            at = asyncio.run(writer.append(FrameKind.REVIEW, {"n": n}))
            frame = read_frame(writer.directory / at.segment, at.offset)
            assert isinstance(frame, Frame)
            assert (frame.seq, frame.seq, orjson.loads(frame.payload)) == (at.seq, n + 1, {"n": n})
    frames = [found for found in read_segment(writer.directory / "00000001.mjl") if isinstance(found, Frame)]
    assert [frame.kind for frame in frames] == [0, 3, 3, 3, 5]
    header = orjson.loads(frames[0].payload)
    assert header["worker"] == writer.directory.name and header["version"] == 1 and header["host"]


def test_the_lock_tells_life_from_death(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, role="gateway")
    assert list_workers(tmp_path) == [writer.directory]
    assert is_worker_alive(writer.directory) and is_worker_alive(writer.directory)
    writer.close()
    writer.close()
    assert not is_worker_alive(writer.directory)
    with pytest.raises(JournalError, match="closed"):
        put(writer, 1)
    assert not writer.healthy


def test_sync_mode_returns_only_after_its_bytes_are_synced(tmp_path: Path) -> None:
    gate = threading.Event()
    synced = threading.Event()

    class Slow(OsDisk):
        slow = False

        def fdatasync(self, fd: int) -> None:
            if self.slow:
                synced.set()
                gate.wait(5)
            super().fdatasync(fd)

    disk = Slow()
    with JournalWriter(tmp_path, role="w", disk=disk, stall_after_s=0.05) as writer:
        disk.slow = True
        done: list[int] = []
        first = threading.Thread(target=lambda: done.append(put(writer, 0).seq))
        first.start()
        assert synced.wait(5)
        rest = [threading.Thread(target=lambda n=n: done.append(put(writer, n).seq)) for n in range(1, 20)]
        for thread in rest:
            thread.start()
        time.sleep(0.15)
        assert done == []
        assert not writer.healthy  # hangs for longer than stall_after_s
        syncs = writer.counters.syncs
        disk.slow = False
        gate.set()
        for thread in [first, *rest]:
            thread.join(5)
        assert len(done) == 20 and writer.healthy
        assert writer.counters.syncs - syncs == 2  # one that hung, one for the nineteen that gathered
        assert writer.counters.waiting_bytes == 0


def test_a_cancelled_caller_still_gets_its_record_written(tmp_path: Path) -> None:
    async def run(writer: JournalWriter) -> None:
        task = asyncio.create_task(writer.append(FrameKind.REVIEW, {"n": 7}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await writer.append(FrameKind.REVIEW, {"n": 8})

    with JournalWriter(tmp_path, role="w") as writer:
        asyncio.run(run(writer))
        assert records(writer.directory) == [7, 8]


def test_a_closed_loop_does_not_stop_the_thread(tmp_path: Path) -> None:
    gate = threading.Event()

    class Slow(OsDisk):
        def fdatasync(self, fd: int) -> None:
            gate.wait(0.2)
            super().fdatasync(fd)

    async def leave(writer: JournalWriter) -> None:
        task = asyncio.create_task(writer.append(FrameKind.REVIEW, {"n": 1}))
        await asyncio.sleep(0.01)
        task.cancel()

    with JournalWriter(tmp_path, role="w", disk=Slow()) as writer:
        asyncio.run(leave(writer))
        put(writer, 2)
        assert records(writer.directory) == [1, 2]


def test_segments_rotate_and_stay_within_their_size(tmp_path: Path) -> None:
    with JournalWriter(tmp_path, role="w", segment_max_bytes=600) as writer:
        threads = [threading.Thread(target=put, args=(writer, n)) for n in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        put(writer, 60)
        big = writer.append_blocking(FrameKind.REVIEW, {"n": 61, "text": "x" * 2000})
        after = put(writer, 62)
    segments = list_segments(writer.directory)
    assert [segment.number for segment in segments] == list(range(1, len(segments) + 1))
    assert len(segments) > 5
    sizes = {segment.path.name: segment.path.stat().st_size for segment in segments}
    assert max(size for name, size in sizes.items() if name not in (big.segment, segments[-1].path.name)) <= 600
    assert after.segment > big.segment
    assert sorted(records(writer.directory)) == list(range(63))


def test_the_queue_is_bounded_and_bad_records_are_refused(tmp_path: Path) -> None:
    gate = threading.Event()

    class Stuck(OsDisk):
        stuck = False

        def write(self, fd: int, data: memoryview) -> int:
            if self.stuck:
                gate.wait(5)
            return super().write(fd, data)

    disk = Stuck()
    with JournalWriter(tmp_path, role="w", disk=disk, queue_max_bytes=1000) as writer:
        disk.stuck = True
        threads = [threading.Thread(target=put, args=(writer, n)) for n in range(25)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 5
        while writer.counters.waiting_bytes < 700 and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(JournalError, match="log_unavailable"):
            writer.append_blocking(FrameKind.REVIEW, {"n": 1, "text": "x" * 500})
        assert writer.counters.rejected == 1
        gate.set()
        for thread in threads:
            thread.join()
        with pytest.raises(JournalError, match="not JSON"):
            writer.append_blocking(FrameKind.REVIEW, {"text": "\ud800"})
    with JournalWriter(tmp_path, role="big") as writer:
        with pytest.raises(JournalError, match="shorten"):
            writer.append_blocking(FrameKind.REVIEW, {"text": "x" * (1 << 20)})
        assert put(writer, 1).seq == 1 and writer.healthy


def test_where_no_segment_can_be_made_the_start_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="log_unavailable"):
        JournalWriter(tmp_path / "file", role="w")
