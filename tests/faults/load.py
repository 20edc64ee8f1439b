"""Promises 1, 3 and 6 under load: no errors at the rated load, and at three times the capacity most of it is used.

Open-loop load on one worker with the `sync` journal, the model stubbed in a process of its own; the retrieval is the
bench's (`tests/bench/gateway/subject.py`: no embedding, no index), since a real encoder is another measurement. First
300 requests a second for `cycles` seconds: no error, memory does not drift, every answer is on record. Then overload:
a model that takes 0.4 s and 64 requests in flight make a capacity of 160 a second; 480 a second are offered. At least
80 % of the capacity is answered, all else is refused (429 or 503) within 100 ms.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from lake.journal.frames import Damage
from lake.journal.reader import list_segments, list_workers, read_segment
from lake.schemas.records import FrameKind
from tests.faults.gateways import ROOT, running_gateway
from tests.faults.harness import Progress, Tally, quiet, share
from tests.faults.open_loop import LoadResult, OpenLoop
from tests.gateway.kit import Gateway

NAME, PROMISE, UNIT, FULL = "load", "1, 3, 6", "seconds at 300 requests/s, then 60 s of overload", 600
DRIFT = 0.05
GOODPUT = 0.8
REFUSAL_S = 0.1


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests a second, and what makes the capacity of the overload: `in_flight` / `model_s` requests a second."""

    rated: float = 300.0
    rated_in_flight: int = 256  # 300 a second: the default of 64 would be full after 0.2 s without a sync
    in_flight: int = 64
    model_s: float = 0.4
    overload_s: float = 60.0

    @property
    def capacity(self) -> float:
        return self.in_flight / self.model_s


@contextlib.contextmanager
def stub_process(delay_s: float) -> Iterator[str]:
    """The stub model in a process; its address."""
    command = [sys.executable, "-m", "tests.faults.stub_model", str(delay_s)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def run(
    cycles: int, seed: int, scratch: Path, progress: Progress = quiet, bug: str = "", rates: Rates | None = None,
    timed: bool = True,
) -> Tally:  # fmt: skip
    """`cycles`: seconds at the rated load. `timed`: rates and latencies are checked, else only counts and states."""
    rates = rates or Rates()
    tally = Tally()
    with stub_process(0.01) as base, _gateway(scratch / "rated", base, rates.rated_in_flight, bug) as gateway:
        memory: list[float] = []
        worker = _worker(gateway)

        def tick(elapsed_s: float) -> None:
            memory.append(worker.memory_info().rss / 1e6)
            progress(int(elapsed_s), cycles, tally)

        loop = OpenLoop(gateway.url, seed)
        loop.run(rates.rated, max(1.0, cycles / 20))  # warm: caches and connections are there
        result = loop.run(rates.rated, cycles, tick)
        _check_rated(result, memory, seed, tally)
        tally.check(gateway.stop() == 0, seed, "did not end in order")
    _check_journal(scratch / "rated" / "journal", result, seed, tally)
    with stub_process(rates.model_s) as base, _gateway(scratch / "overload", base, rates.in_flight, bug) as gateway:
        result = OpenLoop(gateway.url, seed + 1).run(3 * rates.capacity, rates.overload_s)
        _check_overload(result, rates, seed, tally, timed)
    _check_journal(scratch / "overload" / "journal", result, seed, tally)
    return tally


@contextlib.contextmanager
def _gateway(data_dir: Path, base: str, in_flight: int, bug: str) -> Iterator[Gateway]:
    env = {
        "LLM_API_BASE": base, "LLM_MODEL_NAME": "stub", "LLM_PROFILE": "vllm", "MULLE_LOG_LEVEL": "error",
        "MULLE_MAX_IN_FLIGHT": f"{in_flight}",
    }  # fmt: skip
    with running_gateway(data_dir, data_dir, env, bug or "fixed") as gateway:
        yield gateway


def _worker(gateway: Gateway) -> psutil.Process:
    parent = psutil.Process(gateway.process.pid)
    return (parent.children() or [parent])[0]


def _check_rated(result: LoadResult, memory: list[float], seed: int, tally: Tally) -> None:
    tally.counts["requests"] = sum(result.statuses.values())
    tally.counts["errors"] = len(result.problems) + len(result.refused_s)
    tally.figures["answered"] = f"{result.goodput:.0f}/s"
    tally.figures["p50"] = f"{share(result.latencies_s, 0.5) * 1000:.1f} ms"
    tally.figures["p99"] = f"{share(result.latencies_s, 0.99) * 1000:.1f} ms"
    tally.figures["sent late by"] = f"{result.late_s * 1000:.0f} ms at most"
    tally.check(not result.problems, seed, f"{len(result.problems)} errors, e.g. {result.problems[:2]}")
    tally.check(not result.refused_s, seed, f"{len(result.refused_s)} requests were refused at the rated load")
    tenth = max(1, len(memory) // 10)
    first, last = statistics.median(memory[tenth : 2 * tenth + 1] or [1.0]), statistics.median(memory[-tenth:] or [1.0])
    tally.figures["memory"] = f"{first:.0f} → {last:.0f} MB ({(last / first - 1) * 100:+.1f} %)"
    tally.check(last / first - 1 < DRIFT, seed, f"memory drifted from {first:.0f} to {last:.0f} MB")


def _check_overload(result: LoadResult, rates: Rates, seed: int, tally: Tally, timed: bool) -> None:
    part = result.goodput / rates.capacity
    tally.counts["offered in overload"] = sum(result.statuses.values())
    tally.counts["refused in overload"] = len(result.refused_s)
    tally.figures["goodput"] = f"{result.goodput:.0f}/s, {part * 100:.0f} % of {rates.capacity:.0f}/s"
    tally.figures["refusals p99"] = f"{share(result.refused_s, 0.99) * 1000:.0f} ms"
    tally.check(not result.problems, seed, f"{len(result.problems)} errors in overload, e.g. {result.problems[:2]}")
    tally.check(bool(result.refused_s), seed, "nothing was refused at three times the capacity")
    tally.check(not timed or part >= GOODPUT, seed, f"goodput {part * 100:.0f} % of the capacity")
    slow_s = share(result.refused_s, 0.99)
    tally.check(not timed or slow_s < REFUSAL_S, seed, f"refusals took {slow_s * 1000:.0f} ms (p99)")


def _check_journal(root: Path, result: LoadResult, seed: int, tally: Tally) -> None:
    """Counts only: ten minutes are 180,000 records."""
    ids: set[bytes] = set()
    responses = 0
    for worker in list_workers(root):
        for segment in list_segments(worker):
            for item in read_segment(segment.path):
                if isinstance(item, Damage):
                    tally.check(False, seed, f"{segment.name} is damaged at {item.offset}")
                elif item.kind == FrameKind.RESPONSE:
                    responses += 1
                    ids.add(item.payload.split(b'"request_id":"', 1)[1][:26])
    unlogged = {rid.encode() for rid in result.answered_ids} - ids
    tally.counts["unlogged"] += len(unlogged)
    tally.check(not unlogged, seed, f"{len(unlogged)} answers are not in the journal")
    tally.check(responses == len(ids), seed, f"{responses - len(ids)} responses stand twice")
