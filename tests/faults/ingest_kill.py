"""Promise 5: ingest dies at each of its steps, and the next run makes the same table.

A child process counts what it does to the disk and to the tables (opening, committing, syncing, renaming, quarantine)
and dies without a word (`os._exit`) before or after one of these. Its point is the cycle's number, so that every point
is met. The journal holds damage, duplicates, an odd block, records to mask and a request without an answer.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from lake.errors import IngestError
from lake.ingest import ingest
from lake.journal.frames import encode
from lake.journal.writer import JournalWriter
from lake.ledger import audit
from lake.schemas.records import FrameKind
from lake.settings import LakeSettings
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.lake.ingest_kit import NOW, ROOT, feedback, ids, put, request, response, review, rows, serve

NAME, PROMISE, UNIT, FULL = "ingest-kill", "5", "kills", 660
LEAST_POINTS = 30  # there were 654 when this was written

CHILD = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from lake import files, ingest, marks, tables
from lake.settings import LakeSettings
point, bug, steps = int(sys.argv[2]), sys.argv[3], 0
def step():
    global steps
    steps += 1
    if steps == point:
        os._exit(9)
def dying(module, name):
    real = getattr(module, name)
    def call(*args, **kwargs):
        step()
        result = real(*args, **kwargs)
        step()
        return result
    setattr(module, name, call)
if bug == "early":  # planted bug: the marks move before the rows are there
    real = ingest.append
    def append(lake_dir, name, rows, *, table, txns, metadata):
        if steps + 1 == point:
            real(lake_dir, name, rows.slice(0, 0), table=table, txns=txns, metadata=metadata)
        step()
        return real(lake_dir, name, rows, table=table, txns=txns, metadata=metadata)
    ingest.append = append
for module, name in [
    (os, "fsync"), (os, "replace"), (os, "rename"), (tables, "write_deltalake"), (ingest, "append"),
    (tables, "make_durable"), (ingest.quarantine, "keep"), (marks, "open_table"), (ingest, "decide"),
    (ingest, "added_rows"), (ingest, "audit"),
]:
    if bug == "none":
        dying(module, name)
ingest.MAX_ROWS = 3
ingest.ingest(LakeSettings(data_dir=Path(sys.argv[1])), datetime.now(UTC))
print(steps)
"""


def run(cycles: int, seed: int, scratch: Path, progress: Progress = quiet, bug: str = "none") -> Tally:
    """A kill a cycle, at the next point each time; the points are counted by a run that lives."""
    tally = Tally()
    template = scratch / "template"
    served = _journal(LakeSettings(data_dir=template))
    shutil.copytree(template, scratch / "whole")
    code, out = _ingest(scratch / "whole", 0, bug)
    points = int(out) if code == 0 else 0
    expected = _state(LakeSettings(data_dir=scratch / "whole"))
    tally.counts["points"] = points
    tally.check(points >= LEAST_POINTS, seed, f"{points} points, exit code {code}")
    for number, (cycle_seed, rng) in enumerate(cycles_of(cycles if points else 0, seed, tally, progress)):
        paths = LakeSettings(data_dir=scratch / f"{cycle_seed}")
        shutil.copytree(template, paths.data_dir)
        point = (seed + number) % points + 1
        code, _ = _ingest(paths.data_dir, point, bug)
        if rng.random() < 0.3:  # and the next one dies as well
            _ingest(paths.data_dir, rng.randint(1, points), bug)
        try:
            ingest(paths, NOW)
        except IngestError as error:
            tally.check(False, cycle_seed, f"point {point}: {error}")
            continue
        found = _state(paths)
        tally.check(code in (0, 9), cycle_seed, f"point {point}: exit code {code}")
        tally.check(ids(paths) == sorted(served), cycle_seed, f"point {point}: ids are missing or stand twice")
        tally.check(found == expected, cycle_seed, f"point {point}: {found} instead of {expected}")
        tally.counts["kills"] += code == 9
        shutil.rmtree(paths.data_dir)
    return tally


def _journal(paths: LakeSettings) -> list[str]:
    with JournalWriter(paths.journal_dir, role="gateway", segment_max_bytes=20_000) as writer:
        served = serve(writer, 8)
        put(writer, FrameKind.REQUEST, request("aborted"))
        at = put(writer, FrameKind.REQUEST, request("odd", mood="good", user_query="010-1234-5678"))
        put(writer, FrameKind.RESPONSE, response("odd", at.seq, outcome="fine"))
        put(writer, FrameKind.RESPONSE, response("nobody", 99))
        put(writer, FrameKind.RESPONSE, response(served[0], 1))
        for number in range(4):
            put(writer, FrameKind.REVIEW, review(number))
            put(writer, FrameKind.FEEDBACK, feedback(number, served[0]))
        put(writer, FrameKind.REVIEW, review(9, answer=None))
        served += serve(writer, 4)
    path = writer.directory / "00000001.mjl"
    path.write_bytes(path.read_bytes() + b"\xffMJ\xfetorn")
    shutil.copytree(writer.directory, paths.journal_dir / "copy")
    last = sorted((paths.journal_dir / "copy").glob("*.mjl"))[-1]
    last.write_bytes(last.read_bytes() + encode(99, 10_000, b"{}"))
    return [*served, "aborted", "odd"]


def _ingest(data_dir: Path, point: int, bug: str) -> tuple[int, str]:
    command = [sys.executable, "-c", CHILD, str(data_dir), str(point), bug]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip()


def _state(paths: LakeSettings) -> dict[str, object]:
    """What has to come out, however often ingest died on the way."""
    quarantine_dir = paths.data_dir / "quarantine"
    books = audit(paths.journal_dir, paths.lake_dir, quarantine_dir, NOW, whole=True)
    kept = sorted(f"{path.parent.name[:4]}/{path.name}" for path in quarantine_dir.glob("*/*.json"))
    counts = {name: len(rows(paths, name)) for name in ("requests", "reviews", "feedback")}
    return {"ledger": books.total.to_dict(), "quarantine": kept, "rows": counts}
