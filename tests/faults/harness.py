"""What every fault harness has in common: seeds, counts, failures that name their seed, a line of progress.

A harness is a module with `NAME`, `PROMISE` (number in docs/proof.md), `UNIT`, `FULL` (cycles of the full form) and
`run(cycles, seed, scratch, progress) -> Tally`. Cycle i uses the seed `seed + i` alone, so that a failing one is
repeated by `make proof NAME=<name> SEED=<its seed> CYCLES=1`.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

CI_SEED = 20_261_125  # the short forms: the same every time, so that a red build is red again


@dataclass(slots=True)
class Tally:
    """What was counted and what went wrong. `figures`: measured values for the report, as text."""

    counts: Counter[str] = field(default_factory=Counter[str])
    figures: dict[str, str] = field(default_factory=dict[str, str])
    failures: list[str] = field(default_factory=list[str])
    skipped: str = ""  # why this machine can't run the harness; empty: it ran

    def check(self, holds: bool, seed: int, what: str) -> None:
        """Note a failure with its seed where a promise does not hold."""
        self.counts["checks"] += 1
        if not holds:
            self.failures.append(f"seed {seed}: {what}")

    def __str__(self) -> str:
        shown = {**{name: f"{count:,}" for name, count in self.counts.items()}, **self.figures}
        return self.skipped or ", ".join(f"{name} {value}" for name, value in shown.items())


class Progress(Protocol):
    """Told now and then how many cycles are done."""

    def __call__(self, done: int, cycles: int, tally: Tally) -> None: ...


def quiet(done: int, cycles: int, tally: Tally) -> None:
    """For tests: prints nothing."""


class Lines:
    """A line every few seconds: cycles done, time left, failures so far."""

    def __init__(self, name: str, every_s: float = 10.0) -> None:
        self._name = name
        self._every_s = every_s
        self._began = self._told = time.monotonic()

    def __call__(self, done: int, cycles: int, tally: Tally) -> None:
        now = time.monotonic()
        if now - self._told < self._every_s or not done:
            return
        self._told = now
        left_s = (now - self._began) / done * (cycles - done)
        line = f"  {self._name}: {done:,} of {cycles:,}, about {left_s:.0f} s left, {len(tally.failures)} failures"
        print(line, file=sys.stderr, flush=True)


class Harness(Protocol):
    """A module that proves one promise."""

    NAME: str
    PROMISE: str
    UNIT: str
    FULL: int

    def run(self, cycles: int, seed: int, scratch: Path, progress: Progress = quiet) -> Tally: ...


def cycles_of(cycles: int, seed: int, tally: Tally, progress: Progress) -> Iterator[tuple[int, random.Random]]:
    """(seed, generator) of each cycle; ends early once ten cycles have failed, more would say no more."""
    for number in range(cycles):
        if len(tally.failures) >= 10:
            return
        yield seed + number, random.Random(seed + number)
        progress(number + 1, cycles, tally)


def share(values: list[float], part: float) -> float:
    """The value below which `part` (0..1) of the values lie; 0.0 of none."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else 0.0


def report_lines(results: Mapping[str, tuple[Tally, float]]) -> list[str]:
    """The summary table, one line a harness: name, verdict, seconds, what was counted."""
    lines = []
    for name, (tally, seconds) in results.items():
        verdict = "SKIPPED" if tally.skipped else "FAILED" if tally.failures else "holds"
        lines.append(f"{name:14} {verdict:8} {seconds:7.0f} s  {tally}")
        lines.extend(f"    {failure}" for failure in tally.failures[:10])
    return lines
