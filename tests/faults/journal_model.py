"""Promises 1, 2, 3 and 4 against a model: any order of appends, faults, kills, power cuts, restarts and bit flips.

Hypothesis drives a real `JournalWriter` over a disk that knows which bytes were synced. The model is one dictionary:
what must be found, what may be (refused, or in doubt), and how many damaged ranges there are at least. After every
step the journal is read anew: nothing that must be there is missing or doubled, nothing else is there, sequence
numbers rise, damage is reported, and the index of each dead worker accounts for every frame.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, get_state_machine_test, initialize, invariant, rule

from lake.errors import JournalError
from lake.journal.disk import OsDisk
from lake.journal.frames import Damage, Frame, scan
from lake.journal.index import index_worker
from lake.journal.reader import list_segments, list_workers
from lake.journal.writer import FramePosition, JournalWriter
from lake.schemas.records import FrameKind
from tests.faults.harness import Progress, Tally, quiet

NAME, PROMISE, UNIT, FULL = "model", "1, 2, 3, 4", "runs of 50 steps", 2000
STEPS = 50
CHUNK = 50  # examples a hypothesis run, each with a seed of its own
Scan = Callable[[bytes], Iterator[Frame | Damage]]
POWER_CUT = st.sampled_from(["nothing", "all", "part", "zeros"])


@dataclass(slots=True)
class SimFile:
    """A segment: bytes written and bytes that a power cut leaves; `named`: its folder was synced."""

    path: Path
    written: int = 0
    synced: int = 0
    named: bool = False


class SimDisk(OsDisk):
    """Real files, simulated durability. Faults count down over all calls; frozen: the process or the power is gone."""

    def __init__(self) -> None:
        self.files: dict[str, SimFile] = {}
        self.frozen = False
        self.fault: tuple[int, int, int] | None = None  # calls until it strikes, errno, how often
        self.short_writes = False
        self._open: dict[int, SimFile] = {}

    def _enter(self) -> None:
        if self.frozen:
            raise OSError(errno.EIO, "gone")
        if self.fault is None:
            return
        calls, code, times = self.fault
        if calls > 0:
            self.fault = (calls - 1, code, times)
            return
        self.fault = (0, code, times - 1) if times > 1 else None
        raise OSError(code, os.strerror(code))

    def create(self, path: Path) -> int:
        self._enter()
        fd = super().create(path)
        self._open[fd] = self.files[path.name] = SimFile(path)
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        self._enter()
        done = super().write(fd, data[: max(1, len(data) // 2)] if self.short_writes else data)
        self._open[fd].written += done
        return done

    def fdatasync(self, fd: int) -> None:
        self._enter()
        self._open[fd].synced = self._open[fd].written

    def sync_dir(self, path: Path) -> None:
        self._enter()
        for file in self.files.values():
            file.named = True

    def lose_power(self, what: str) -> None:
        """Leave on the real disk what a power cut may leave of these files."""
        for file in self.files.values():
            if not file.path.exists():
                continue
            if not file.named:
                file.path.unlink()
                continue
            lost = file.written - file.synced
            kept = {"nothing": 0, "all": lost, "part": lost // 2, "zeros": 0}[what]
            os.truncate(file.path, file.synced + kept)
            if what == "zeros":
                os.truncate(file.path, file.written)


class LyingDisk(SimDisk):
    """Planted bug: the writer acknowledges although nothing was synced."""

    def fdatasync(self, fd: int) -> None:
        self._enter()


class JournalModel(RuleBasedStateMachine):
    """`scratch`, `disk` and `scanner` are set by `machine`."""

    scratch: Path
    disk_type: type[SimDisk] = SimDisk
    scanner: Scan = staticmethod(scan)

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(dir=self.scratch))
        self.loop = asyncio.new_event_loop()
        self.next = 0
        self.must: dict[int, tuple[str, FramePosition, int]] = {}  # record → worker, place, frame size
        self.may: set[int] = set()
        self.flipped: dict[Path, int] = {}  # of segments with flipped bits: the byte
        self.disk = self.disk_type()
        self.mode = "sync"
        self.writer: JournalWriter | None = None

    @initialize(mode=st.sampled_from(["sync", "group"]))
    def begin(self, mode: str) -> None:
        self.mode = mode
        self._open()

    def _open(self) -> None:
        self.disk = self.disk_type()
        self.writer = JournalWriter(
            self.root, role="w", mode=self.mode, group_window_ms=10_000, segment_max_bytes=900, disk=self.disk  # type: ignore[arg-type]
        )  # fmt: skip

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()

    @rule(count=st.integers(1, 6), size=st.integers(0, 400))
    def append(self, count: int, size: int) -> None:
        assert self.writer is not None
        numbers = range(self.next, self.next + count)
        self.next += count

        async def batch(writer: JournalWriter) -> list[FramePosition | BaseException]:
            writes = [writer.append(FrameKind.REVIEW, {"review_id": f"{n}", "pad": "x" * size}) for n in numbers]
            return await asyncio.gather(*writes, return_exceptions=True)

        for n, answer in zip(numbers, self.loop.run_until_complete(batch(self.writer)), strict=True):
            self._book(n, answer, size)

    @rule(count=st.integers(1, 3), hold_s=st.sampled_from([0.0, 0.001, 1.0]))
    def append_pairs(self, count: int, hold_s: float) -> None:
        """Pairs as the gateway writes them: the first may be held, the second follows it."""
        assert self.writer is not None
        firsts = range(self.next, self.next + 2 * count, 2)
        self.next += 2 * count

        async def batch(writer: JournalWriter) -> list[FramePosition | BaseException]:
            waiting: list[Any] = []
            for n in firsts:
                first = writer.submit(FrameKind.REVIEW, {"review_id": f"{n}", "pad": ""}, hold_s=hold_s)
                second = writer.submit(FrameKind.REVIEW, {"review_id": f"{n + 1}", "pad": ""}, follows=first)
                waiting += [first.future, second.future]
            return await asyncio.gather(*waiting, return_exceptions=True)

        answers = self.loop.run_until_complete(batch(self.writer))
        for n in firsts:
            first, second = answers[n - firsts[0]], answers[n - firsts[0] + 1]
            assert isinstance(first, FramePosition) or isinstance(second, JournalError), "second without its first"
            self._book(n, first, 0)
            self._book(n + 1, second, 0)

    def _book(self, n: int, answer: FramePosition | BaseException, size: int) -> None:
        assert self.writer is not None
        if isinstance(answer, FramePosition):
            frame_bytes = 22 + len(orjson.dumps({"review_id": f"{n}", "pad": "x" * size}))
            self.must[n] = (self.writer.directory.name, answer, frame_bytes)
        else:
            assert isinstance(answer, JournalError), repr(answer)
            self.may.add(n)

    @rule(
        calls=st.integers(0, 6), code=st.sampled_from([errno.EIO, errno.ENOSPC, errno.EDQUOT]), times=st.integers(1, 4)
    )
    def fault(self, calls: int, code: int, times: int) -> None:
        self.disk.fault = (calls, code, times)

    @rule(short=st.booleans())
    def short_writes(self, short: bool) -> None:
        self.disk.short_writes = short

    @rule()
    def heal(self) -> None:
        """Without faults the next append works, whatever came before."""
        self.disk.fault = None
        assert self.writer is not None
        self.loop.run_until_complete(self.writer.probe())
        self.append(1, 0)
        assert self.next - 1 in self.must and self.writer.healthy

    @rule()
    def kill(self) -> None:
        self.disk.frozen = True
        self._close()
        self._open()

    @rule(what=POWER_CUT)
    def power_cut(self, what: str) -> None:
        assert self.writer is not None
        self.disk.frozen = True
        self._close()
        self.disk.lose_power(what)
        if self.mode == "group":  # promised is only what was synced within the window
            for n, (worker, at, size) in list(self.must.items()):
                file = self.disk.files.get(at.segment)
                if worker == self.writer.directory.name and (file is None or at.offset + size > file.synced):
                    del self.must[n]
                    self.may.add(n)
        self._open()

    @rule()
    def restart(self) -> None:
        self._close()
        self._open()

    @rule(pick=st.integers(0, 10_000), bit=st.integers(0, 7))
    def flip(self, pick: int, bit: int) -> None:
        """One bit of a dead worker's segment; a segment is hit once."""
        assert self.writer is not None
        paths = [
            segment.path
            for worker in list_workers(self.root)
            if worker != self.writer.directory
            for segment in list_segments(worker)
            if segment.path.stat().st_size and segment.path not in self.flipped
        ]
        if not paths:
            return
        path = paths[pick % len(paths)]
        data = bytearray(path.read_bytes())
        place = pick % len(data)
        for item in scan(bytes(data)):
            if isinstance(item, Frame) and item.offset <= place < item.end and item.kind == FrameKind.REVIEW:
                n = int(orjson.loads(item.payload)["review_id"])
                self.must.pop(n, None)
                self.may.discard(n)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        self.flipped[path] = place

    @invariant()
    def the_journal_is_what_the_model_says(self) -> None:
        found: list[int] = []
        for worker in list_workers(self.root):
            frames = seq = damaged = 0
            for segment in list_segments(worker):
                hidden = segment.path in self.flipped
                for item in self.scanner(segment.path.read_bytes()):
                    if isinstance(item, Damage):
                        damaged += 1
                        hidden = hidden and not item.offset <= self.flipped[segment.path] < item.end
                    elif item.kind == FrameKind.REVIEW:
                        frames += 1
                        assert item.seq > seq, f"sequence {item.seq} after {seq}"
                        seq = item.seq
                        found.append(int(orjson.loads(item.payload)["review_id"]))
                assert not hidden, f"damage in {segment.name} is not reported"
            if self.writer is None or worker != self.writer.directory:
                index = index_worker(worker)
                assert not index.alive and index.pending() is None
                assert index.journalled == frames + damaged, f"the index counts {index.journalled}"
        assert len(found) == len(set(found)), "a record stands twice"
        assert self.must.keys() <= set(found), f"lost: {sorted(self.must.keys() - set(found))}"
        assert set(found) <= self.must.keys() | self.may, "a record that nobody wrote"

    def teardown(self) -> None:
        self._close()
        self.loop.close()
        shutil.rmtree(self.root, ignore_errors=True)


def machine(scratch: Path, disk: type[SimDisk], scanner: Scan) -> type[JournalModel]:
    """The model over this disk and scanner."""
    body = {"scratch": scratch, "disk_type": disk, "scanner": staticmethod(scanner)}
    return type("JournalModelOnDisk", (JournalModel,), body)


def run(
    cycles: int,
    seed: int,
    scratch: Path,
    progress: Progress = quiet,
    disk: type[SimDisk] = SimDisk,
    scanner: Scan = scan,
) -> Tally:
    """`cycles` runs of up to 50 steps; files lie in memory where the machine has /dev/shm."""
    tally = Tally()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else scratch) as folder:
        done = 0
        while done < cycles and not tally.failures:
            chunk = min(CHUNK, cycles - done)
            chunk_seed = seed + done  # repeated by SEED=<it> CYCLES=<chunk>
            _run_chunk(chunk, chunk_seed, machine(Path(folder), disk, scanner), tally)
            done += chunk
            tally.counts["runs"] = done
            progress(done, cycles, tally)
    return tally


def _run_chunk(count: int, seed: int, model: type[JournalModel], tally: Tally) -> None:
    chosen = settings(
        max_examples=count, stateful_step_count=STEPS, deadline=None, database=None, print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),  # type: ignore[arg-type]
        phases=(Phase.generate, Phase.shrink),
    )  # fmt: skip
    test = with_seed(seed)(get_state_machine_test(partial(_count, model, tally), settings=chosen))  # type: ignore[arg-type]
    try:
        test()
    except Exception as error:
        notes = " / ".join(getattr(error, "__notes__", []))
        tally.check(False, seed, f"CYCLES={count}: {type(error).__name__} {error} {notes}"[:3000])


def _count(model: type[JournalModel], tally: Tally) -> JournalModel:
    tally.counts["machines"] += 1
    return model()
