"""Promises 1 and 3: whichever system call of the journal fails, nothing acknowledged is lost and nothing is silent.

`strace -e inject` makes the Nth call of one name fail with one errno in a real process, once or from then on, for each
N until a run makes fewer calls than N. Checked: the process ends in order (an answer for each record, or a typed
refusal to start), every acknowledged record can be read once, every other one was refused, no descriptor is written or
synced again after it failed, and after a fault that passes the journal works again. Needs strace (`why_not`).
"""

from __future__ import annotations

import itertools
import random
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from lake.journal.frames import Frame
from lake.journal.reader import is_worker_alive, list_segments, list_workers, read_segment
from lake.schemas.records import FrameKind
from tests.faults.acknowledged import ROOT
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.faults.syscall_victim import ACKNOWLEDGED, RECORDS, REFUSED

NAME, PROMISE, UNIT, FULL = "syscalls", "1, 3", "runs", 3000
CALLS = ("write", "fdatasync", "openat", "fsync", "rename", "mkdir", "flock", "close", "unlink")
PHASES = ("start", "running")
ERRORS = ("EIO", "ENOSPC", "EINTR")
# EINTR for ever is no fault that a kernel has: Python repeats the call, as it should. It stops after three.
_SPAN = {"once": "{n}", "on": "{n}+", "EINTR on": "{n}..{last}"}
_FAILED_FD = re.compile(r"(?:write|fdatasync)\((\d+).*\(INJECTED\)")
_USED_FD = re.compile(r"(?:write|fdatasync)\((\d+)")


@dataclass(frozen=True, slots=True)
class Fault:
    """The `nth` call (per thread) fails; `lasts`: so do all after it."""

    call: str
    error: str
    nth: int
    lasts: bool
    mode: str
    phase: str  # traced from its start, or once it runs

    def __str__(self) -> str:
        nth = f"{self.nth}{'+' if self.lasts else ''}"
        return f"{self.call} {nth} {self.error}, {self.mode} mode, traced from {self.phase}"


def why_not() -> str:
    """Why this machine can't do it; empty where it can."""
    if shutil.which("strace") is None:
        return "needs strace"
    tried = subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, text=True)
    return f"strace can't trace here: {tried.stderr.strip()[:200]}" if tried.returncode else ""


def run(
    cycles: int, seed: int, scratch: Path, progress: Progress = quiet, bug: str = "", call: str = "", phase: str = "",
    first: int = 1,
) -> Tally:  # fmt: skip
    """All faults in a seeded order, `cycles` of them at most. `call`, `phase`: only these; `first`: the least N."""
    tally = Tally(skipped=why_not())
    if tally.skipped:
        return tally
    combinations = itertools.product(
        [call] if call else CALLS, ERRORS, (False, True), ("sync", "group"), [phase] if phase else PHASES
    )
    # Each combination goes up through N until the writer makes fewer calls than that.
    waiting = [Fault(name, error, first, lasts, mode, when) for name, error, lasts, mode, when in combinations]
    random.Random(seed).shuffle(waiting)
    for cycle_seed, _ in cycles_of(cycles, seed, tally, progress):
        if not waiting:
            break
        fault = waiting.pop(0)
        injected = _cycle(scratch / f"{cycle_seed}", fault, cycle_seed, tally, bug)
        tally.counts["runs"] += 1
        tally.counts["faults"] += injected
        if injected:
            waiting.append(replace(fault, nth=fault.nth + 1))
        else:
            tally.counts["combinations done"] += 1
    tally.counts["combinations left"] = len(waiting)
    return tally


def _cycle(scratch: Path, fault: Fault, seed: int, tally: Tally, bug: str) -> int:
    """Run one fault; how many calls failed."""
    scratch.mkdir(parents=True)
    outcome_file, trace_file, root = scratch / "outcomes", scratch / "trace", scratch / "journal"
    outcome_file.write_bytes(bytes(RECORDS + 1))
    command = [sys.executable, "-m", "tests.faults.syscall_victim", str(root), fault.mode, fault.phase]
    command += [str(outcome_file)] + [bug] * bool(bug)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe) as victim:
        assert victim.stdin and victim.stdout and victim.stderr
        assert victim.stdout.readline() == b"ready\n", victim.stderr.read().decode()
        when = _SPAN["EINTR on" if fault.lasts and fault.error == "EINTR" else "on" if fault.lasts else "once"]
        when = when.format(n=fault.nth, last=fault.nth + 2)
        tracer = subprocess.Popen(
            [
                "strace", "-f", "-qq", "-o", str(trace_file), "-e", "trace=write,fdatasync,close," + fault.call,
                "-e", f"inject={fault.call}:error={fault.error}:when={when}", "-p", str(victim.pid),
            ]
        )  # fmt: skip
        _wait_traced(victim.pid)
        try:
            victim.stdin.write(b"go\n")
            victim.stdin.flush()
            victim.wait(60)
        except subprocess.TimeoutExpired:
            tally.check(False, seed, f"{fault}: the writer hangs")
            victim.kill()
        errors = victim.stderr.read().decode()
        tracer.wait(60)
    trace = trace_file.read_text(errors="replace")
    outcomes = outcome_file.read_bytes()
    tally.check(not errors and outcomes[RECORDS] in (1, 2), seed, f"{fault}: {errors[-300:] or 'did not end'}")
    _check_records(root, outcomes, trace.count("(INJECTED)"), fault, seed, tally)
    tally.check(not _used_again(trace), seed, f"{fault}: a descriptor was used again after it had failed")
    shutil.rmtree(scratch)
    return trace.count("(INJECTED)")


def _check_records(root: Path, outcomes: bytes, injected: int, fault: Fault, seed: int, tally: Tally) -> None:
    found: list[int] = []
    for worker in list_workers(root):
        tally.check(not is_worker_alive(worker), seed, f"{fault}: {worker.name} still counts as alive")
        for segment in list_segments(worker):
            found += [
                orjson.loads(item.payload)["n"]
                for item in read_segment(segment.path)
                if isinstance(item, Frame) and item.kind == FrameKind.REVIEW
            ]
    acknowledged = {n for n in range(RECORDS) if outcomes[n] == ACKNOWLEDGED}
    refused = {n for n in range(RECORDS) if outcomes[n] == REFUSED}
    tally.counts["acknowledged"] += len(acknowledged)
    tally.counts["refused"] += len(refused)
    lost = acknowledged - set(found)
    tally.check(not lost, seed, f"{fault}: acknowledged records {sorted(lost)} are lost")
    tally.check(len(found) == len(set(found)), seed, f"{fault}: a record stands twice")
    if outcomes[RECORDS] == 1:
        everyone = len(acknowledged) + len(refused) == RECORDS
        tally.check(everyone, seed, f"{fault}: {RECORDS - len(acknowledged) - len(refused)} records had no answer")
    else:
        tally.counts["refused to start"] += 1
        tally.check(injected > 0, seed, f"{fault}: no journal although nothing failed")
    if not fault.lasts and outcomes[RECORDS] == 1:  # it heals by itself: no record is refused but by a fault
        tally.check(len(refused) <= injected, seed, f"{fault}: {len(refused)} records refused, {injected} calls failed")


def _used_again(trace: str) -> bool:
    """Whether a descriptor was written or synced after a write or sync of it had failed (EINTR: repeating is right)."""
    failed: set[str] = set()
    for line in trace.splitlines():
        used = _USED_FD.search(line)
        if used and used[1] in failed:
            return True
        hit = _FAILED_FD.search(line)
        if hit and "EINTR" not in line:
            failed.add(hit[1])
        closed = re.search(r"close\((\d+)\)", line)
        if closed:
            failed.discard(closed[1])
    return False


def _wait_traced(pid: int) -> None:
    """Until a tracer holds the process."""
    deadline = time.monotonic() + 30
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, "strace did not attach"
        time.sleep(0.002)
