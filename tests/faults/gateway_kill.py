"""Promises 1 and 5: kill -9 of a whole gateway, or of one of its two workers, under load loses no delivered answer.

Users read JSON answers and streams byte by byte. Whoever saw a head knows an id: its request half is durable, and both
halves where the answer or its last event came. All cycles share one lake: at the end each id is in it exactly once.
Planted bug: a journal that acknowledges before it writes.
"""

from __future__ import annotations

import os
import random
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from lake.ingest import ingest
from lake.settings import LakeSettings
from tests.faults.clients import Reply, Users
from tests.faults.gateways import Journalled, journalled, kill_all, make_index, running_gateway, wait_for_replies
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.faults.stub_model import StubModel, run_model
from tests.lake.ingest_kit import rows

NAME, PROMISE, UNIT, FULL = "gateway-kill", "1, 5", "kills", 200
USERS = 8


def run(
    cycles: int,
    seed: int,
    scratch: Path,
    progress: Progress = quiet,
    bug: str = "",
    stream_share: float = 0.5,
) -> Tally:
    """`bug`: one that `buggy_gateway` plants."""
    tally = Tally()
    data_dir, index = scratch / "data", make_index()
    delivered: set[str] = set()
    with run_model(delay_s=0.03, word_s=0.005) as model:
        for cycle_seed, rng in cycles_of(cycles, seed, tally, progress):
            replies = _cycle(data_dir, index, model, cycle_seed, rng, tally, bug, stream_share)
            check_replies(replies, journalled(data_dir / "journal"), cycle_seed, tally)
            delivered |= {reply.request_id for reply in replies if reply.ended and reply.status == 200}
            tally.counts["kills"] += 1
    _check_lake(data_dir, delivered, seed, tally)
    return tally


def _cycle(
    data_dir: Path, index: Path, model: StubModel, seed: int, rng: random.Random, tally: Tally, bug: str,
    stream_share: float,
) -> list[Reply]:  # fmt: skip
    env = {**model.env(), "MULLE_WORKERS": rng.choice(["1", "2"]), "MULLE_LOG_LEVEL": "warning"}
    with running_gateway(data_dir, index, env, bug) as gateway:
        with Users(gateway.url, USERS, seed, stream_share) as users:
            wait_for_replies(users, rng.randint(4, 80))
            workers = psutil.Process(gateway.process.pid).children()
            if len(workers) == 2 and rng.random() < 0.5:
                os.kill(rng.choice(workers).pid, signal.SIGKILL)
                tally.counts["kills of one worker"] += 1
                time.sleep(0.3)  # the other one serves on
            kill_all(gateway.process)
            users.stop()
        tally.counts["replies"] += len(users.replies)
        tally.counts["cut off"] += sum(not reply.ended for reply in users.replies)
        tally.check(not users.hung, seed, f"{users.hung} requests hung")
    return users.replies


def check_replies(replies: list[Reply], found: Journalled, seed: int, tally: Tally) -> None:
    """Nothing that was delivered is missing from the journal, and no half stands twice."""
    tally.check(not found.doubled, seed, f"{found.doubled[:3]} stand twice in the journal")
    for reply in replies:
        rid = reply.request_id
        if reply.status != 200:
            tally.check(reply.status in (429, 503), seed, f"answered {reply.status}: {reply.body[:200]!r}")
            continue
        tally.check(rid in found.requests, seed, f"{rid} was delivered, its request half is lost")
        if reply.ended:
            tally.check(rid in found.responses, seed, f"{rid} was answered, its response half is lost")


def _check_lake(data_dir: Path, delivered: set[str], seed: int, tally: Tally) -> None:
    paths = LakeSettings(data_dir=data_dir)
    report = ingest(paths, datetime.now(UTC))  # raises where the ledger does not close
    tally.check(report.total.pending == 0, seed, f"{report.total.pending} frames of dead workers are pending")
    table = [row["request_id"] for row in rows(paths)]
    tally.counts["rows"] = len(table)
    tally.counts["duplicates"] = len(table) - len(set(table))
    tally.check(len(table) == len(set(table)), seed, "a request id stands twice in the lake")
    lost = delivered - set(table)
    tally.counts["lost"] = len(lost)
    tally.check(not lost, seed, f"{len(lost)} delivered answers are not in the lake, e.g. {sorted(lost)[:3]}")
