"""Promise 5: many ingesters at once make one table. Each has its process, they start together and race for every block.

A journal of several workers, one of them copied (so that every id of it comes twice), small blocks. Each id must be in
the table once, versions must follow on one another, what the ingesters say they added must be the rows there are, and a
whole count of the journal must close.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from lake.journal.writer import JournalWriter
from lake.ledger import audit
from lake.settings import LakeSettings
from lake.tables import open_table
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.lake.ingest_kit import NOW, ROOT, ids, serve

NAME, PROMISE, UNIT, FULL = "rivals", "5", "commits an ingester", 50
RIVALS, ROWS = 16, 3  # processes, rows of a block

CHILD = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from lake import ingest, tables
from lake.settings import LakeSettings
ingest.MAX_ROWS, ingest.MAX_TRIES = int(sys.argv[2]), 10_000
if sys.argv[3] == "blind":  # planted bug: appends on whatever is the newest snapshot
    ingest.append = lambda lake_dir, name, rows, table, **_: tables.append(lake_dir, name, rows)
print("ready", flush=True)
sys.stdin.readline()
report = ingest.ingest(LakeSettings(data_dir=Path(sys.argv[1])), datetime.now(UTC))
print(report.rows_added["requests"], report.lost_races)
"""


def run(
    cycles: int, seed: int, scratch: Path, progress: Progress = quiet, rivals: int = RIVALS, bug: str = "none"
) -> Tally:
    """`cycles` commits an ingester, all in one race."""
    tally = Tally()
    for race_seed, rng in cycles_of(1, seed, tally, quiet):
        paths = LakeSettings(data_dir=scratch / f"{race_seed}")
        total = cycles * rivals * ROWS
        served: list[str] = []
        workers, worker = 4, Path()
        for number in range(workers):
            size = rng.choice([20_000, 200_000])
            with JournalWriter(paths.journal_dir, role="gateway", mode="group", segment_max_bytes=size) as writer:
                served += serve(writer, total // workers + (number < total % workers))
                worker = writer.directory
        shutil.copytree(worker, paths.journal_dir / "copy")
        answers = _race(paths, rivals, bug)
        progress(cycles, cycles, tally)
        told = [out.split() for code, out, _ in answers if code == 0]
        failed = [error[-300:] for code, _, error in answers if code]
        tally.check(not failed, race_seed, f"{len(failed)} ingesters failed: {failed[:1]}")
        tally.check(ids(paths) == sorted(served), race_seed, "ids are missing or stand twice")
        tally.check(sum(int(added) for added, _ in told) == len(served), race_seed, f"added: {told}")
        books = audit(paths.journal_dir, paths.lake_dir, paths.data_dir / "quarantine", NOW, whole=True).total
        tally.check(books.closes and not books.pending, race_seed, f"the ledger: {books.to_dict()}")
        log = paths.data_dir / "lake" / "requests" / "_delta_log"
        commits = sorted(int(path.stem) for path in log.glob("*.json"))
        newest = open_table(paths.lake_dir, "requests").version()
        tally.check(commits == list(range(newest + 1)), race_seed, f"versions {commits[-3:]}, newest {newest}")
        tally.counts["commits"] += newest
        tally.counts["lost races"] += sum(int(lost) for _, lost in told)
        tally.counts["rows"] += len(served)
    return tally


def _race(paths: LakeSettings, rivals: int, bug: str) -> list[tuple[int, str, str]]:
    command = [sys.executable, "-c", CHILD, str(paths.data_dir), str(ROWS), bug]
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(rivals)
    ]
    try:
        for one in started:
            assert one.stdout is not None and one.stdout.readline() == "ready\n"
        for one in started:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        return [(one.wait(), *said) for one in started for said in [one.communicate()]]
    finally:
        for one in started:
            one.kill()
            one.communicate()
