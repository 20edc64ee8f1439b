"""Progress of long work as JSON lines that a terminal, a page or a flow can follow while it runs, and as spoken
lines where the caller wants to print them.

Writes `data/run/progress.jsonl` (appended, one short write a line, so several processes may share it).
Nothing depends on it for correctness: it may be deleted at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import orjson

SPOKEN_EVERY_S = 5.0


class Progress:
    """Counts `done` of `total` for one stage; the rate is the mean since the start. `say` gets a line for people at
    the end, and before it every `SPOKEN_EVERY_S`.
    """

    def __init__(
        self,
        path: Path | None,
        stage: str,
        total: int | None = None,
        min_interval_s: float = 0.5,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self._path = path
        self._stage = stage
        self._total = total
        self._min_interval_s = min_interval_s
        self._start = time.monotonic()
        self._last = -1e9
        self._say = say
        self._spoken = self._start
        self.done = 0
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._write("started", force=True)

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more done; written at most every `min_interval_s`, and always at the end."""
        self.done += n
        self._write(note, force=self._total is not None and self.done >= self._total)
        if self._say is not None and time.monotonic() - self._spoken >= SPOKEN_EVERY_S:
            self._spoken = time.monotonic()
            self._say(self.spoken())

    def finish(self, note: str = "done") -> None:
        """Say that the stage is over, whatever was counted."""
        self._total = self._total if self._total is not None else self.done
        self._write(note, force=True)
        if self._say is not None:
            self._say(self.spoken())

    def spoken(self) -> str:
        """Stage, count, rate and the time left (or taken), for people."""
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = self.done / elapsed
        if self._total is None or self.done >= self._total:
            return f"{self._stage}: {self.done:,} in {elapsed:.1f} s ({rate:,.0f}/s)"
        left = f"{(self._total - self.done) / rate:,.0f} s left" if self.done else "time left unknown"
        return f"{self._stage}: {self.done:,} of {self._total:,} ({rate:,.0f}/s), {left}"

    def _write(self, note: str, force: bool) -> None:
        now = time.monotonic()
        if self._path is None or (not force and now - self._last < self._min_interval_s):
            return
        self._last = now
        elapsed = max(now - self._start, 1e-9)
        rate = self.done / elapsed
        eta = (self._total - self.done) / rate if self._total and self.done else None
        line = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "stage": self._stage,
            "done": self.done,
            "total": self._total,
            "elapsed_s": round(elapsed, 2),
            "rate_per_s": round(rate, 3),
            "eta_s": round(eta, 1) if eta is not None else None,
            "note": note,
        }
        with self._path.open("ab") as handle:
            handle.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


@contextmanager
def timed(timings: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds spent in the block to `timings[name]`."""
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[name] = timings.get(name, 0.0) + time.perf_counter() - start
