"""Promises 4 and 5: a damaged file of table or journal is a typed error, or is counted; nothing goes silently.

A table with a first part ingested and a second part in the journal; one file of the table (data, commit, checkpoint) or
of the journal loses bytes, gets others, is emptied or taken away. Ingest must then end well with books that close, or
with an error of ours; and once the file is whole again, the next ingest must bring the table to what it had to be.
Where a journal segment was hit, whatever is not in the table must be in quarantine.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from lake import ingest as ingest_module
from lake.errors import MulleError
from lake.ingest import ingest
from lake.journal.writer import JournalWriter
from lake.ledger import audit
from lake.settings import LakeSettings
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.lake.ingest_kit import NOW, ids, serve

NAME, PROMISE, UNIT, FULL = "lake-damage", "4, 5", "mutants", 2000


def run(cycles: int, seed: int, scratch: Path, progress: Progress = quiet) -> Tally:
    """A mutated file a cycle."""
    tally = Tally()
    template = LakeSettings(data_dir=scratch / "template")
    rows, ingest_module.MAX_ROWS = ingest_module.MAX_ROWS, 40  # some commits and files
    try:
        served = _template(template)
        for cycle_seed, rng in cycles_of(cycles, seed, tally, progress):
            paths = LakeSettings(data_dir=scratch / f"{cycle_seed}")
            shutil.copytree(template.data_dir, paths.data_dir)
            _cycle(paths, rng, cycle_seed, served, tally)
            shutil.rmtree(paths.data_dir)
    finally:
        ingest_module.MAX_ROWS = rows
    return tally


def _template(paths: LakeSettings) -> list[str]:
    """A journal of two parts, the first one in the lake."""
    with JournalWriter(paths.journal_dir, role="gateway", mode="group", segment_max_bytes=60_000) as writer:
        served = serve(writer, 120)
        ingest(paths, NOW)
        return served + serve(writer, 60)


def _cycle(paths: LakeSettings, rng: random.Random, seed: int, served: list[str], tally: Tally) -> None:
    in_journal = rng.random() < 0.4
    root = paths.journal_dir if in_journal else paths.data_dir / "lake" / "requests"
    files = sorted(one for one in root.rglob("*") if one.is_file() and one.name != "lock")
    path = rng.choice(files)
    whole = path.read_bytes()
    what = f"{_mutate(path, rng)} of {path.relative_to(paths.data_dir)}"
    try:
        ledger = ingest(paths, NOW).total
        tally.check(ledger.closes, seed, f"{what}: a ledger that is open")
        tally.counts["survived"] += 1
    except MulleError:
        tally.counts["refused"] += 1
    except Exception as error:
        tally.check(False, seed, f"{what}: {type(error).__name__}: {str(error)[:200]}")
    if in_journal:
        _check_journal(paths, path.exists(), seed, what, served, tally)
        return
    path.write_bytes(whole)
    try:
        ingest(paths, NOW)
    except MulleError as error:
        tally.check(False, seed, f"{what}, then put back: {error}")
        return
    tally.check(ids(paths) == sorted(served), seed, f"{what}, then put back: ids are missing or stand twice")


def _check_journal(paths: LakeSettings, exists: bool, seed: int, what: str, served: list[str], tally: Tally) -> None:
    """No id twice, none that nobody wrote, and every one that is missing was hit: its range is in quarantine."""
    found = ids(paths)
    tally.check(len(found) == len(set(found)) and set(found) <= set(served), seed, f"{what}: rows that nobody wrote")
    lost = len(set(served) - set(found))
    kept = len(list((paths.data_dir / "quarantine").glob("*/*.json")))
    books = audit(paths.journal_dir, paths.lake_dir, paths.data_dir / "quarantine", NOW)
    told = kept or books.shrunk or books.total.pending or not exists
    tally.check(not lost or bool(told), seed, f"{what}: {lost} ids are gone without a word")


def _mutate(path: Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flip", "cut", "zeros", "gone", "junk"])
    place = rng.randrange(max(1, len(data)))
    match kind:
        case "flip" if data:
            data[place] ^= 1 << rng.randrange(8)
        case "cut":
            del data[place:]
        case "zeros":
            data[place : place + 512] = bytes(len(data[place : place + 512]))
        case "gone":
            path.unlink()
            return kind
        case _:
            data[place:place] = rng.randbytes(64)
    path.write_bytes(data)
    return f"{kind} at {place}"
