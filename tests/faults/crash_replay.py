"""Promise 1 in user space: every state that a crash may leave, from the writer's own order of system calls.

A recording disk notes create, write, fdatasync, directory sync and acknowledgement in their order. Then each prefix of
that list is a crash. What was synced stands; of what was not, the disk may hold nothing, all, any part or zeros, and a
file whose folder was not synced may be gone. In every such state all records acknowledged in the prefix must be
readable. Needs no rights, so it runs where `power_cut` can't; it sees what ext4 hides (ext4 keeps the name of a new
file at its fdatasync; POSIX promises that only for the folder's).
"""

from __future__ import annotations

import asyncio
import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import orjson

from lake.journal.disk import OsDisk
from lake.journal.frames import Frame, scan
from lake.journal.pending import FramePosition, Pending
from lake.journal.writer import JournalWriter
from lake.schemas.records import FrameKind
from tests.faults.harness import Progress, Tally, cycles_of, quiet

NAME, PROMISE, UNIT, FULL = "replay", "1", "runs", 300
TASKS = 4
Call = Literal["create", "write", "sync", "sync_dir", "ack"]


@dataclass(slots=True)
class Step:
    """One call, in order. `data`: the bytes of a write, or the record number of an acknowledgement."""

    call: Call
    path: str = ""
    data: bytes = b""


class RecordingDisk(OsDisk):
    """The real disk, and a list of what was asked of it. A write or sync is noted after it returned."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._names: dict[int, str] = {}

    def create(self, path: Path) -> int:
        fd = super().create(path)
        self._names[fd] = path.name
        self.steps.append(Step("create", path.name))
        return fd

    def write(self, fd: int, data: memoryview) -> int:
        done = super().write(fd, data)
        self.steps.append(Step("write", self._names[fd], bytes(data[:done])))
        return done

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        self.steps.append(Step("sync", self._names[fd]))

    def sync_dir(self, path: Path) -> None:
        super().sync_dir(path)
        self.steps.append(Step("sync_dir"))


class NoFileSync(RecordingDisk):
    """Planted bug: acknowledges before the sync."""

    def fdatasync(self, fd: int) -> None:
        os.fstat(fd)


class NoFolderSync(RecordingDisk):
    """Planted bug: the name of a new segment is never made durable."""

    def sync_dir(self, path: Path) -> None:
        path.stat()


@dataclass(slots=True)
class _File:
    durable: bytes = b""
    volatile: bytes = b""
    named: bool = False  # its name is durable


@dataclass(slots=True)
class _Machine:
    """What is on the disk and what only in memory, after some steps."""

    files: dict[str, _File] = field(default_factory=dict[str, _File])
    acknowledged: set[int] = field(default_factory=set[int])

    def apply(self, step: Step) -> None:
        match step.call:
            case "create":
                self.files[step.path] = _File()
            case "write":
                self.files[step.path].volatile += step.data
            case "sync":
                file = self.files[step.path]
                file.durable, file.volatile = file.durable + file.volatile, b""
            case "sync_dir":
                for file in self.files.values():
                    file.named = True
            case "ack":
                self.acknowledged.add(int(step.data))

    def crash(self, rng: random.Random, worst: bool) -> list[bytes]:
        """Segments as a reader finds them; `worst`: everything that may be lost is."""
        left: list[bytes] = []
        for file in self.files.values():
            if not file.named and (worst or rng.random() < 0.5):
                continue
            kept = 0 if worst else rng.choice([0, len(file.volatile), rng.randint(0, len(file.volatile))])
            tail = file.volatile[:kept]
            if not worst and rng.random() < 0.3:  # the size reached the disk, the bytes did not
                tail += bytes(len(file.volatile) - kept)
            left.append(file.durable + tail)
        return left


def record(scratch: Path, rng: random.Random, disk: RecordingDisk) -> list[Step]:
    """The steps of a writer that some tasks use at once: single records, and pairs whose first may be held."""
    with JournalWriter(scratch, role="w", segment_max_bytes=rng.choice([900, 5_000]), disk=disk) as writer:

        async def acknowledge(n: int, pending: Pending) -> None:
            await cast("asyncio.Future[FramePosition]", pending.future)
            disk.steps.append(Step("ack", data=str(n).encode()))

        async def work(first: int) -> None:
            for n in range(first, first + 8, 2):
                begun = writer.submit(FrameKind.REVIEW, _record(n, rng), hold_s=rng.choice([0.0, 0.005]))
                if rng.random() < 0.5:
                    await acknowledge(n, begun)
                await acknowledge(n + 1, writer.submit(FrameKind.REVIEW, _record(n + 1, rng), follows=begun))
                await acknowledge(n, begun)  # once its second half is acknowledged, so is the first

        async def all_tasks() -> None:
            await asyncio.gather(*(work(100 * number) for number in range(TASKS)))

        asyncio.run(all_tasks())
    return disk.steps


def _record(n: int, rng: random.Random) -> dict[str, Any]:
    return {"n": n, "pad": "한" * rng.randrange(40)}


def run(
    cycles: int, seed: int, scratch: Path, progress: Progress = quiet, disk: type[RecordingDisk] = RecordingDisk
) -> Tally:
    """Per cycle one recorded run; of each prefix the worst state and three random ones."""
    tally = Tally()
    for cycle_seed, rng in cycles_of(cycles, seed, tally, progress):
        machine = _Machine()
        steps = record(scratch / f"{cycle_seed}", rng, disk())
        for number, step in enumerate(steps):
            machine.apply(step)
            for state in range(4):
                found = _numbers(machine.crash(rng, worst=state == 0))
                lost = machine.acknowledged - set(found)
                what = f"crash after step {number} ({step.call} {step.path}): lost {sorted(lost)[:5]}"
                tally.check(not lost and len(found) == len(set(found)), cycle_seed, what)
                tally.counts["crash states"] += 1
        tally.counts["acknowledged"] += len(machine.acknowledged)
    return tally


def _numbers(segments: list[bytes]) -> list[int]:
    return [
        orjson.loads(item.payload)["n"]
        for data in segments
        for item in scan(data)
        if isinstance(item, Frame) and item.kind == FrameKind.REVIEW
    ]
