"""Promise 1 for a whole gateway: a power cut under load loses no answer that a client had before it.

The gateway's journal lies on an ext4 of its own (`power_cut.CutDisk`). Whoever had seen an answer's end before the cut
finds both halves of it after the mount; whoever had seen a head of a stream, the request half. Needs root.
Planted bug: a journal that acknowledges before it writes.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests.faults.clients import Reply, Users
from tests.faults.gateway_kill import check_replies
from tests.faults.gateways import journalled, kill_all, make_index, running_gateway, wait_for_replies
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.faults.power_cut import CutDisk, why_not
from tests.faults.stub_model import StubModel, run_model

NAME, PROMISE, UNIT, FULL = "gateway-power", "1", "cuts", 50
USERS = 8


def run(cycles: int, seed: int, scratch: Path, progress: Progress = quiet, bug: str = "") -> Tally:
    """`bug`: one that `buggy_gateway` plants."""
    tally = Tally(skipped=why_not(scratch))
    if tally.skipped:
        return tally
    index, disk = make_index(), CutDisk(scratch)
    with run_model(delay_s=0.03, word_s=0.005) as model:
        for cycle_seed, rng in cycles_of(cycles, seed, tally, progress):
            replies = _cycle(disk, scratch / f"{cycle_seed}", index, model, cycle_seed, rng, tally, bug)
            with disk.mounted() as root:
                found = journalled(root / f"{cycle_seed}")
            check_replies(replies, found, cycle_seed, tally)
            tally.counts["cuts"] += 1
            tally.counts["replies"] += len(replies)
            tally.counts["torn tails"] += found.damage
    return tally


def _cycle(
    disk: CutDisk, data_dir: Path, index: Path, model: StubModel, seed: int, rng: random.Random, tally: Tally, bug: str
) -> list[Reply]:
    data_dir.mkdir()
    env = {**model.env(), "MULLE_WORKERS": rng.choice(["1", "2"]), "MULLE_LOG_LEVEL": "warning"}
    with disk.mounted() as root:
        (data_dir / "journal").symlink_to(root / f"{seed}")
        (root / f"{seed}").mkdir()
        with running_gateway(data_dir, index, env, bug) as gateway, Users(gateway.url, USERS, seed) as users:
            wait_for_replies(users, rng.randint(4, 80))
            before_cut = list(users.replies)  # what comes from here on may have no record on the disk
            disk.cut()
            kill_all(gateway.process)
            users.stop()
        tally.check(not users.hung, seed, f"{users.hung} requests hung")
    return before_cut
