"""Reads what a `writer_process` acknowledged and compares it with what its journal holds."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import orjson

from lake.journal.frames import Damage
from lake.journal.reader import is_worker_alive, list_segments, list_workers, read_segment
from lake.schemas.records import FrameKind
from tests.faults.harness import Tally
from tests.faults.writer_process import expected, expected_answer

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"Q": FrameKind.REQUEST, "R": FrameKind.RESPONSE}
Key = tuple[FrameKind, str]


@dataclass(slots=True)
class Acknowledged:
    """(kind, request id) → monotonic ns of the acknowledgement; `slowest_sync_ms` as the writer saw it."""

    at_ns: dict[Key, int] = field(default_factory=dict[Key, int])
    slowest_sync_ms: float = 0.0
    began: bool = False
    rest: bytes = b""

    def take(self, data: bytes) -> None:
        """Whole lines; half a line waits for the next piece."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            match line.decode().split():
                case ["Q" | "R" as letter, rid, at]:
                    self.at_ns[KINDS[letter], rid] = int(at)
                case ["F", slowest]:
                    self.slowest_sync_ms = float(slowest)
                case _:
                    self.began = True


class WriterProcess:
    """Starts a writer; `read_for` collects acknowledgements, `kill` ends it with SIGKILL."""

    def __init__(self, root: Path, mode: str, seed: int, bug: str = "") -> None:
        command = [sys.executable, "-m", "tests.faults.writer_process", str(root), mode, str(seed)]
        self._process = subprocess.Popen(
            command + [bug] * bool(bug), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._process.stdout is not None
        self._fd = self._process.stdout.fileno()
        os.set_blocking(self._fd, False)
        self.acknowledged = Acknowledged()
        deadline = time.monotonic() + 60
        while not self.acknowledged.began:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError(f"the writer did not start: {self.errors()}")
            self.read_for(0.01)

    def read_for(self, seconds: float) -> None:
        """Collect acknowledgements for this long; with 0.0 only those that wait."""
        end = time.monotonic() + seconds
        while True:
            ready, _, _ = select.select([self._fd], [], [], max(0.0, end - time.monotonic()))
            if ready:
                data = os.read(self._fd, 1 << 16)
                self.acknowledged.take(data)
                if not data:
                    return
            elif time.monotonic() >= end:
                return

    def kill(self) -> None:
        """SIGKILL and wait."""
        self._process.kill()
        self._process.wait()

    def errors(self) -> str:
        """What the writer wrote to standard error; call it after its end."""
        assert self._process.stderr is not None
        return self._process.stderr.read().decode()[-2000:]

    def __enter__(self) -> WriterProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def check_journal(root: Path, acknowledged: Acknowledged, seed: int, tally: Tally) -> set[Key]:
    """Every acknowledged half is there once, byte for byte; returns those that are missing (no failure yet).

    Anything that stands in the journal and was never written so, a doubled half, more damage than one torn tail a
    segment, or a worker that still counts as alive is a failure.
    """
    found: set[Key] = set()
    for worker in list_workers(root):
        tally.check(not is_worker_alive(worker), seed, f"{worker.name} still counts as alive")
        for segment in list_segments(worker):
            damage = 0
            for item in read_segment(segment.path):
                if isinstance(item, Damage):
                    damage += 1
                    tally.counts["torn tails"] += 1
                    continue
                if item.kind not in KINDS.values():
                    continue
                payload = orjson.loads(item.payload)
                key = (FrameKind(item.kind), rid := payload["request_id"])
                tally.check(key not in found, seed, f"{key} stands twice")
                found.add(key)
                answer = item.kind == FrameKind.RESPONSE
                whole = expected_answer(rid, payload["request_seq"]) if answer else expected(rid)
                tally.check(payload == whole, seed, f"{key} has other content")
            tally.check(damage <= 1, seed, f"{segment.name} has {damage} damaged ranges")
    return acknowledged.at_ns.keys() - found
