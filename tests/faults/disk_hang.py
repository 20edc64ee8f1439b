"""Promises 3 and 6: a disk that hangs holds up no request for ever, and heals without a restart.

The journal lies on an ext4 of its own that is frozen under load (`FIFREEZE`: every write and sync waits). Each request
then ends by the journal's time limit with 503 `log_unavailable`, none with an answer that has no record; `/readyz`
says 503; once the disk moves again the same process answers. Needs root (`power_cut.why_not`).
Planted bug: a journal whose acknowledgements do not wait for the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.clients import Reply, Users
from tests.faults.disk_full import ready, until
from tests.faults.gateways import journalled, make_index, running_gateway, wait_for_replies
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.faults.power_cut import CutDisk, why_not
from tests.faults.stub_model import run_model
from tests.gateway.kit import Gateway

NAME, PROMISE, UNIT, FULL = "disk-hang", "3, 6", "frozen disks", 30
USERS = 6
JOURNAL_TIMEOUT_S = 1.5
_FREEZE, _THAW = 0xC0045877, 0xC0045878  # _IOWR('X', 119, int), _IOWR('X', 120, int)


@contextlib.contextmanager
def frozen(mount_point: Path) -> Iterator[None]:
    """Nothing is written to the file system inside the block; who tries waits."""
    fd = os.open(mount_point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _FREEZE, 0)
        try:
            yield
        finally:
            fcntl.ioctl(fd, _THAW, 0)
    finally:
        os.close(fd)


def run(cycles: int, seed: int, scratch: Path, progress: Progress = quiet, bug: str = "") -> Tally:
    """`bug`: one that `buggy_gateway` plants."""
    tally = Tally(skipped=why_not(scratch))
    if tally.skipped:
        return tally
    data_dir, disk = scratch / "data", CutDisk(scratch)
    data_dir.mkdir()
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(disk.mounted())
        (data_dir / "journal").symlink_to(root / "journal")
        (root / "journal").mkdir()
        model = stack.enter_context(run_model(delay_s=0.01, word_s=0.002))
        env = {**model.env(), "MULLE_LOG_LEVEL": "error", "MULLE_JOURNAL_TIMEOUT_S": f"{JOURNAL_TIMEOUT_S}"}
        gateway = stack.enter_context(running_gateway(data_dir, make_index(), env, bug))
        for cycle_seed, rng in cycles_of(cycles, seed, tally, progress):
            answered = _cycle(gateway, root, cycle_seed, rng, tally)
            found = journalled(root / "journal")
            for reply in answered:
                whole = reply.request_id in found.requests.keys() & found.responses.keys()
                tally.check(whole, cycle_seed, f"{reply.request_id} was answered without a whole record")
            tally.check(not found.doubled, cycle_seed, f"{found.doubled[:3]} stand twice")
        tally.check(gateway.stop() == 0 or bool(bug), seed, "did not end in order")
    return tally


def _cycle(gateway: Gateway, root: Path, seed: int, rng: random.Random, tally: Tally) -> list[Reply]:
    with Users(gateway.url, USERS, seed, pause_s=0.01) as users:
        wait_for_replies(users, rng.randint(5, 30))
        with frozen(root):
            before = len(users.replies) + USERS  # they may have been answered before
            tally.check(until(lambda: ready(gateway) == 503) is not None, seed, "/readyz never said 503")
            wait_for_replies(users, before + USERS)  # everyone in flight was told
            time.sleep(rng.uniform(0.0, 1.0))
            late = users.replies[before:]
            tally.check(bool(late), seed, "no request ended while the disk hung")
            tally.check(not any(reply.answered for reply in late), seed, "a request was answered while the disk hung")
            tally.counts["refused while it hung"] += len(late)
        tally.check(until(lambda: ready(gateway) == 200) is not None, seed, "it did not heal without a restart")
        healed = len(users.replies) + USERS
        wait_for_replies(users, healed + 2 * USERS)
        users.stop()
    tally.check(not users.hung, seed, f"{users.hung} requests hung")
    after = users.replies[healed:]
    tally.check(bool(after) and all(reply.answered for reply in after), seed, "a request failed after the disk healed")
    for reply in users.replies:
        tally.counts["answered" if reply.answered else reply.code] += 1
        known = reply.answered or reply.code == "log_unavailable"
        tally.check(known, seed, f"answered {reply.status} {reply.code}: {reply.body[-200:]!r}")
    tally.counts["frozen disks"] += 1
    return [reply for reply in users.replies if reply.answered]
