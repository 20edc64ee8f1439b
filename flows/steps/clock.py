"""A terminal's view of long work: a line a stage, a heartbeat with rate and time left, the whole's ETA.

Reads the progress lines that steps append to `data/run/progress.jsonl` and the seconds that each stage took last
time (`data/run/stage_seconds.json`, kept for the next run; built-in estimates, measured on 2 cores, before that).
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import orjson
import psutil

from lake.files import read_json, write_json_atomic

HEARTBEAT_S = 15.0
SAMPLE_S = 1.0  # between two looks at the memory


def clock_text(seconds: float) -> str:
    """`m:ss`."""
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"


class StageClock:
    """Times stages in the order in which they are opened; `estimates` are seconds by stage name."""

    def __init__(self, estimates: Mapping[str, float], run_dir: Path, out: TextIO = sys.stdout) -> None:
        self._memory = run_dir / "stage_seconds.json"
        self._progress = run_dir / "progress.jsonl"
        known: dict[str, float] = {}
        if self._memory.exists():
            known = {key: float(value) for key, value in read_json(self._memory).items()}
        self._estimates = {name: known.get(name, seconds) for name, seconds in estimates.items()}
        self._names = list(estimates)
        self._out = out
        self._begun = time.monotonic()
        self.seconds: dict[str, float] = {}
        self._used_before = used_bytes()
        self.peak_bytes = 0  # of the machine's memory, above what was in use before

    def say(self, line: str) -> None:
        """Print one line at once."""
        print(line, file=self._out, flush=True)

    def left_s(self, name: str, in_stage_s: float) -> float:
        """Seconds until the end: what is left of this stage by its estimate, and the stages after it."""
        later = self._names[self._names.index(name) + 1 :]
        return max(0.0, self._estimates[name] - in_stage_s) + sum(self._estimates[key] for key in later)

    @contextmanager
    def stage(self, name: str, title: str) -> Iterator[None]:
        """One stage; heartbeats come from a thread, so the work itself may block."""
        number = f"[{self._names.index(name) + 1:>2}/{len(self._names)}]"
        begun = time.monotonic()
        offset = self._progress.stat().st_size if self._progress.exists() else 0
        self.say(f"{number} {title}  (total {self._total()}, left about {clock_text(self.left_s(name, 0))})")
        over = threading.Event()
        beat = threading.Thread(target=self._beat, args=(name, number, begun, offset, over), daemon=True)
        beat.start()
        try:
            yield
        finally:
            over.set()
            beat.join()
            self.seconds[name] = time.monotonic() - begun
        self.say(f"{number} done in {clock_text(self.seconds[name])}")
        write_json_atomic(self._memory, {**self._estimates, **self.seconds})

    def _total(self) -> str:
        return clock_text(time.monotonic() - self._begun)

    def _beat(self, name: str, number: str, begun: float, offset: int, over: threading.Event) -> None:
        beaten = begun
        while not over.wait(SAMPLE_S):
            self.peak_bytes = max(self.peak_bytes, used_bytes() - self._used_before)
            now = time.monotonic()
            if now - beaten < HEARTBEAT_S:
                continue
            beaten = now
            left = clock_text(self.left_s(name, now - begun))
            detail = latest_progress(self._progress, offset)
            self.say(f"{number}   {clock_text(now - begun)}{detail}  (total {self._total()}, left about {left})")


def used_bytes() -> int:
    """Memory in use on the whole machine that could not be had back without swapping."""
    memory = psutil.virtual_memory()
    return memory.total - memory.available


def latest_progress(path: Path, offset: int) -> str:
    """The last progress line after byte `offset` as text, or nothing."""
    try:
        with path.open("rb") as handle:
            handle.seek(0, 2)
            size = handle.tell()
            start = max(offset, size - 4096)
            handle.seek(start)
            lines = handle.read().splitlines()
    except OSError:
        return ""
    for raw in reversed(lines):
        try:
            line = orjson.loads(raw)
        except orjson.JSONDecodeError:
            continue  # the first line may be cut by the seek
        count = f" {line['done']}/{line['total']}" if line.get("total") else ""
        rate = f", {line['rate_per_s']:.2f}/s" if line.get("done") else ""
        eta = f", left {clock_text(line['eta_s'])}" if line.get("eta_s") is not None else ""
        note = f" · {line['note']}" if line.get("note") else ""
        return f" · {line['stage']}{count}{rate}{eta}{note}"
    return ""
