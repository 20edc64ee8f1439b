"""The writer on a disk that fails, on a full one, and killed under load: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from lake.errors import JournalError
from lake.journal.disk import OsDisk
from lake.journal.frames import Damage, Frame
from lake.journal.reader import is_worker_alive, list_segments, list_workers, read_segment
from lake.journal.writer import FramePosition, JournalWriter
from lake.schemas.records import FrameKind

ROOT = Path(__file__).parents[2]


class FaultyDisk(OsDisk):
    """The real disk; `rule(call, nth)` may name an errno for a call (1-based over all calls) or "short"."""

    def __init__(self, rule: Callable[[str, int], int | str | None]) -> None:
        self.rule = rule
        self.calls: list[tuple[str, int]] = []
        self.dead: set[int] = set()

    def _enter(self, call: str, fd: int = -1) -> str | None:
        assert fd not in self.dead, f"{call} on a descriptor that had failed"
        self.calls.append((call, fd))
        verdict = self.rule(call, len(self.calls))
        if isinstance(verdict, int):
            if fd >= 0:
                self.dead.add(fd)
            raise OSError(verdict, os.strerror(verdict))
        return verdict

    def create(self, path: Path) -> int:
        self._enter("create")
        fd = super().create(path)
        self.dead.discard(fd)
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        if self._enter("write", fd) == "short":
            return super().write(fd, data[: max(1, len(data) // 2)])
        return super().write(fd, data)

    def fdatasync(self, fd: int) -> None:
        self._enter("fdatasync", fd)
        super().fdatasync(fd)

    def sync_dir(self, path: Path) -> None:
        self._enter("sync_dir")
        super().sync_dir(path)

    def close(self, fd: int) -> None:
        self.calls.append(("close", fd))
        super().close(fd)


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


def test_group_mode_returns_before_and_syncs_within_the_window(tmp_path: Path) -> None:
    disk = FaultyDisk(lambda call, nth: None)
    with JournalWriter(tmp_path, role="w", mode="group", group_window_ms=60, disk=disk) as writer:
        syncs = sum(call == "fdatasync" for call, _ in disk.calls)
        for n in range(10):
            put(writer, n)
        assert records(writer.directory) == list(range(10))  # a kill loses nothing
        assert sum(call == "fdatasync" for call, _ in disk.calls) == syncs
        deadline = time.monotonic() + 5
        while writer.counters.syncs == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sum(call == "fdatasync" for call, _ in disk.calls) == syncs + 1


def test_group_mode_reports_a_failed_sync(tmp_path: Path) -> None:
    broken = threading.Event()
    disk = FaultyDisk(lambda call, nth: errno.EIO if call == "fdatasync" and broken.is_set() else None)
    with JournalWriter(tmp_path, role="w", mode="group", group_window_ms=10, disk=disk) as writer:
        broken.set()
        put(writer, 1)
        deadline = time.monotonic() + 5
        while writer.healthy and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not writer.healthy and writer.counters.failures == 1
        broken.clear()
        assert put(writer, 2).segment == "00000002.mjl" and writer.healthy


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, "short"])
@pytest.mark.parametrize("mode", ["sync", "group"])
def test_every_nth_call_fails_once_and_nothing_acknowledged_is_lost(
    tmp_path: Path, fault: int | str, mode: str
) -> None:
    """The nth system call fails, for each n until a run makes fewer calls than n."""
    hits = 0
    for nth in range(1, 200):
        root = tmp_path / f"{nth}"
        disk = FaultyDisk(lambda call, at, nth=nth: fault if at == nth else None)
        acknowledged: list[int] = []
        refused: list[int] = []
        try:
            writer = JournalWriter(
                root,
                role="w",
                mode=mode,
                group_window_ms=0,
                segment_max_bytes=700,
                disk=disk,  # type: ignore[arg-type]
            )
        except JournalError as error:
            assert "log_unavailable" in str(error)
            hits += 1
            continue
        with writer:
            for n in range(12):
                try:
                    put(writer, n)
                    acknowledged.append(n)
                except JournalError as error:
                    assert "log_unavailable" in str(error) and not writer.healthy
                    refused.append(n)
            if refused:
                put(writer, 12)  # healed by itself
                acknowledged.append(12)
            assert len(refused) <= 1
        counters = writer.counters
        if counters.failures:
            hits += 1
        else:
            assert fault == "short" or refused == []
        found = records(writer.directory)
        assert [n for n in found if n not in refused] == acknowledged
        assert len(set(found)) == len(found)
        if len(disk.calls) < nth:
            break
    else:
        pytest.fail("never ran through without a fault")
    assert hits == 0 if fault == "short" else hits > 15


def test_a_full_disk_refuses_all_and_heals_without_a_restart(tmp_path: Path) -> None:
    full = threading.Event()
    disk = FaultyDisk(lambda call, nth: errno.ENOSPC if full.is_set() and call == "write" else None)

    async def run(writer: JournalWriter) -> None:
        await writer.append(FrameKind.REVIEW, {"n": 0})
        assert await writer.probe()
        full.set()
        answers = await asyncio.gather(
            *(writer.append(FrameKind.REVIEW, {"n": n}) for n in range(1, 50)), return_exceptions=True
        )
        assert all(isinstance(answer, JournalError) for answer in answers)
        assert not writer.healthy and not await writer.probe()
        full.clear()
        assert not writer.healthy  # nobody looked yet
        assert await writer.probe() and writer.healthy
        await writer.append(FrameKind.REVIEW, {"n": 50})

    with JournalWriter(tmp_path, role="w", disk=disk) as writer:
        asyncio.run(run(writer))
        assert records(writer.directory) == [0, 50]
        assert len(list_segments(writer.directory)) == 2  # failed openings leave no files
        header = next(read_segment(list_segments(writer.directory)[1].path))
        assert isinstance(header, Frame)
        assert orjson.loads(header.payload)["failed"][0][0] == 2  # what the writer said no to


def test_a_real_full_disk(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for a full file system: the kernel itself cuts the write short and then
    refuses.
    """
    code = """
import resource, signal, sys
from pathlib import Path
from lake.journal.writer import JournalWriter
from lake.errors import JournalError
from lake.schemas.records import FrameKind
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
with JournalWriter(Path(sys.argv[1]), role="w") as writer:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    acknowledged = []
    for n in range(200):
        try:
            writer.append_blocking(FrameKind.REVIEW, {"n": n, "pad": "x" * 50})
            acknowledged.append(n)
        except JournalError:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    print(len(acknowledged), writer.counters.failures, writer.directory)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    acknowledged, failures, directory = done.stdout.split()
    assert (acknowledged, failures) == ("199", "1")
    assert len(records(Path(directory))) == 199
    first = list_segments(Path(directory))[0].path
    assert [item.reason for item in read_segment(first) if isinstance(item, Damage)] == ["torn_tail"]


WORKER = """
import sys, threading
from pathlib import Path
from lake.journal.writer import JournalWriter
from lake.schemas.records import FrameKind
writer = JournalWriter(Path(sys.argv[1]), role="w", mode=sys.argv[2], segment_max_bytes=20_000)
lock = threading.Lock()
def work(base):
    n = base
    while True:
        writer.append_blocking(FrameKind.REVIEW, {"n": n, "pad": "한" * (n % 97)})
        with lock:
            sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
        n += 8
for base in range(8):
    threading.Thread(target=work, args=(base,)).start()
"""


@pytest.mark.parametrize("mode", ["sync", "sync", "sync", "group"])
def test_kill_9_under_load_loses_no_acknowledged_record(tmp_path: Path, mode: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(tmp_path), mode], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(300)]
    (worker,) = list_workers(tmp_path)
    assert is_worker_alive(worker)
    process.kill()
    lines += process.stdout.read().splitlines(keepends=True)
    process.wait()
    process.stdout.close()
    assert not is_worker_alive(worker)
    acknowledged = {int(line) for line in lines if line.endswith("\n")}
    found = records(worker)
    assert len(acknowledged) >= 300 and acknowledged <= set(found)
    assert len(found) == len(set(found))
    damage = [
        item for segment in list_segments(worker) for item in read_segment(segment.path) if isinstance(item, Damage)
    ]
    assert len(damage) <= 1
