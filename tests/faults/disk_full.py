"""Promise 3: a full disk is told at once, costs no record, no memory and no restart.

The journal of a gateway lies on a small tmpfs. Under load a file takes all that is free: from then on every request is
refused with 503 `log_unavailable`, a stream ends with that error, `/readyz` says 503; once the file is gone the same
process answers again. Never a 200 or a `done` without both halves in the journal. Needs root to mount (`why_not`).
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

from tests.faults.clients import Reply, Users
from tests.faults.gateways import Journalled, journalled, make_index, running_gateway
from tests.faults.harness import Progress, Tally, cycles_of, quiet, share
from tests.faults.stub_model import run_model
from tests.gateway.kit import Gateway

NAME, PROMISE, UNIT, FULL = "disk-full", "3", "full disks", 60
USERS = 6
MEMORY_MB = 60  # a refused request must leave nothing behind; the queue of the journal alone may hold 16 MB
_TMPFS_MB = 64


@contextlib.contextmanager
def small_disk(mount_point: Path) -> Iterator[Path]:
    """A tmpfs; unmounted at the end."""
    mount_point.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={_TMPFS_MB}m", "tmpfs"]
    subprocess.run(["mount", *options, str(mount_point)], check=True, capture_output=True)
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", "-l", str(mount_point)], check=True, capture_output=True)


def why_not(scratch: Path) -> str:
    """Why this machine can't do it; empty where it can."""
    try:
        with small_disk(scratch / "try"):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"can't mount a tmpfs here: {error}"


def fill(disk: Path) -> Path:
    """Take every free byte; the file to remove again."""
    filler = disk / ".filler"
    size = 1 << 20
    with filler.open("wb", buffering=0) as file:
        while size:
            try:
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), size)
            except OSError:
                size //= 2
    return filler


def run(cycles: int, seed: int, scratch: Path, progress: Progress = quiet, bug: str = "", timed: bool = True) -> Tally:
    """`bug`: one that `buggy_gateway` plants; `timed`: `/readyz` has to turn within a second."""
    tally = Tally(skipped=why_not(scratch))
    if tally.skipped:
        return tally
    data_dir, index = scratch / "data", make_index()
    told_s: list[float] = []
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(small_disk(data_dir / "journal"))
        model = stack.enter_context(run_model(delay_s=0.01, word_s=0.002))
        env = {**model.env(), "MULLE_WORKERS": "1", "MULLE_LOG_LEVEL": "error"}
        gateway = stack.enter_context(running_gateway(data_dir, index, env, bug))
        for cycle_seed, rng in cycles_of(cycles, seed, tally, progress):
            replies = _cycle(gateway, disk, cycle_seed, rng, tally, told_s)
            _check(replies, journalled(disk), cycle_seed, tally)
        tally.check(gateway.process.poll() is None, seed, "the gateway did not survive")
    tally.figures["/readyz 503 after, longest"] = f"{share(told_s, 1.0) * 1000:.0f} ms"
    tally.check(not timed or share(told_s, 1.0) <= 1.0, seed, f"/readyz took {share(told_s, 1.0):.1f} s to say 503")
    return tally


def _cycle(
    gateway: Gateway, disk: Path, seed: int, rng: random.Random, tally: Tally, told_s: list[float]
) -> list[Reply]:
    parent = psutil.Process(gateway.process.pid)
    worker = (parent.children() or [parent])[0]
    with Users(gateway.url, USERS, seed, pause_s=0.01) as users:
        time.sleep(rng.uniform(0.1, 0.5))
        before_mb = worker.memory_info().rss / 1e6
        filler = fill(disk)
        try:
            told = until(lambda: ready(gateway) == 503)
            tally.check(told is not None, seed, "/readyz never said 503")
            told_s.append(told or 0.0)
            known = len(users.replies) + USERS  # they may have been answered before
            time.sleep(rng.uniform(0.3, 0.8))
            late = users.replies[known:]
            tally.check(
                not any(reply.answered for reply in late), seed, "a request was answered while the disk was full"
            )
            tally.counts["refused while full"] += len(late)
        finally:
            filler.unlink()
        tally.check(until(lambda: ready(gateway) == 200) is not None, seed, "it did not heal without a restart")
        users.stop()
    grown_mb = worker.memory_info().rss / 1e6 - before_mb
    tally.check(grown_mb < MEMORY_MB, seed, f"memory grew by {grown_mb:.0f} MB")
    with Users(gateway.url, USERS, seed + 1) as users_after:
        tally.check(until(lambda: len(users_after.replies) >= 3 * USERS) is not None, seed, "no answers after the heal")
    tally.check(all(reply.answered for reply in users_after.replies), seed, "a request failed after the heal")
    tally.counts["full disks"] += 1
    return users.replies + users_after.replies


def _check(replies: list[Reply], found: Journalled, seed: int, tally: Tally) -> None:
    for reply in replies:
        if reply.answered:
            tally.counts["answered"] += 1
            whole = reply.request_id in found.requests.keys() & found.responses.keys()
            tally.check(whole, seed, f"{reply.request_id} was answered without a whole record")
        else:
            code = reply.code
            tally.counts[code] += 1
            tally.check(code == "log_unavailable", seed, f"answered {reply.status} {code}: {reply.body[-200:]!r}")
        tally.check(reply.ended, seed, f"{reply.request_id} broke off in the middle")
    tally.check(not found.doubled, seed, f"{found.doubled[:3]} stand twice")


def ready(gateway: Gateway) -> int:
    """Status of /readyz."""
    return httpx.get(f"{gateway.url}/readyz", trust_env=False, timeout=10).status_code


def until(done: Callable[[], bool], limit_s: float = 15.0) -> float | None:
    """Seconds until it is so; None where it never is."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        if done():
            return time.monotonic() - began
        time.sleep(0.02)
    return None
