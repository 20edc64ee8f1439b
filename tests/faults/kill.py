"""Promises 1, 2 and 5: kill -9 of a writer under load loses nothing acknowledged, and ingest takes each id once.

Both modes in turn. A hundred cycles share a data folder; at its end ingest runs twice over all of it.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from lake.ingest import ingest
from lake.schemas.records import FrameKind
from lake.settings import LakeSettings
from tests.faults.acknowledged import Acknowledged, Key, WriterProcess, check_journal
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.lake.ingest_kit import NOW, rows

NAME, PROMISE, UNIT, FULL = "kill", "1, 2, 5", "kills", 2000
SHARE = 100  # cycles a data folder


def run(cycles: int, seed: int, scratch: Path, progress: Progress = quiet, bug: str = "") -> Tally:
    """`bug`: one that `writer_process` plants."""
    tally = Tally()
    known: set[Key] = set()
    paths = LakeSettings(data_dir=scratch / "first")
    for cycle_seed, rng in cycles_of(cycles, seed, tally, progress):
        root = scratch / f"cycle-{cycle_seed}"
        root.mkdir()  # else a kill before the writer's first call would leave none
        acknowledged = _cycle(root, cycle_seed, rng, bug)
        missing = check_journal(root, acknowledged, cycle_seed, tally)
        tally.check(not missing, cycle_seed, f"{len(missing)} acknowledged records lost, e.g. {sorted(missing)[:3]}")
        tally.counts["kills"] += 1
        tally.counts["acknowledged"] += len(acknowledged.at_ns)
        tally.counts["lost"] += len(missing)
        known |= acknowledged.at_ns.keys()
        paths.journal_dir.mkdir(parents=True, exist_ok=True)
        for worker in root.iterdir():
            worker.rename(paths.journal_dir / worker.name)
        root.rmdir()
        if (cycle_seed - seed + 1) % SHARE == 0 or cycle_seed == seed + cycles - 1:
            _check_ingest(paths, known, cycle_seed, tally)
            shutil.rmtree(paths.data_dir)
            known.clear()
            paths = LakeSettings(data_dir=scratch / f"after-{cycle_seed}")
    return tally


def _cycle(root: Path, seed: int, rng: random.Random, bug: str) -> Acknowledged:
    with WriterProcess(root, rng.choice(["sync", "group"]), seed, bug) as writer:
        writer.read_for(rng.choice([rng.uniform(0.0, 0.02), rng.uniform(0.02, 0.15)]))
        writer.kill()
        writer.read_for(0.0)  # what it told before its end was acknowledged as well
    return writer.acknowledged


def _check_ingest(paths: LakeSettings, known: set[Key], seed: int, tally: Tally) -> None:
    for _ in range(2):
        report = ingest(paths, NOW)  # raises where the ledger does not close
        tally.check(report.total.pending == 0, seed, f"{report.total.pending} frames of dead workers are pending")
    table = rows(paths)
    outcomes = {row["request_id"]: row["outcome"] for row in table}
    tally.counts["rows"] += len(table)
    tally.counts["duplicates"] += len(table) - len(outcomes)
    tally.check(len(outcomes) == len(table), seed, f"{len(table) - len(outcomes)} request ids stand twice in the lake")
    for kind, rid in known:
        answered = kind == FrameKind.RESPONSE
        right = outcomes.get(rid) == "answered" if answered else rid in outcomes
        tally.check(right, seed, f"{rid} ({kind.name}) is {outcomes.get(rid)} in the lake")
