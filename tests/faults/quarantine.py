"""Promises 4 and 5: whatever damages a journal, ingest keeps the bytes, counts them, and takes the rest exactly once.

A worker's real segments, mutated like those of `damage`, then ingested twice. The ledger closes (ingest raises where it
does not), every damaged range lies in quarantine byte for byte, every row is one that was written, and requests whose
frames still stand are rows, once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lake.errors import IngestError
from lake.ingest import ingest
from lake.journal import quarantine
from lake.journal.frames import Damage, Frame
from lake.journal.reader import list_segments, list_workers, read_segment
from lake.journal.writer import JournalWriter
from lake.schemas.records import FrameKind
from lake.settings import LakeSettings
from tests.faults.damage import mutate
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.lake.ingest_kit import NOW, put, review, rows, serve

NAME, PROMISE, UNIT, FULL = "quarantine", "4, 5", "damaged journals", 500


def run(
    cycles: int, seed: int, scratch: Path, progress: Progress = quiet, keep: Callable[..., bool] = quarantine.keep
) -> Tally:
    """`keep`: what copies a range; tests plant one that forgets."""
    tally = Tally()
    real, patched = quarantine.keep, quarantine.__dict__
    patched["keep"] = keep
    try:
        for cycle_seed, rng in cycles_of(cycles, seed, tally, progress):
            paths = LakeSettings(data_dir=scratch / f"{cycle_seed}")
            with JournalWriter(paths.journal_dir, role="w", segment_max_bytes=rng.choice([3_000, 50_000])) as writer:
                served = serve(writer, rng.randint(2, 6))
                put(writer, FrameKind.REVIEW, review(1))
            for segment in list_segments(writer.directory):
                if rng.random() < 0.7:
                    data = segment.path.read_bytes()
                    segment.path.write_bytes(mutate(rng, data, data))
            _check(paths, set(served), cycle_seed, tally)
            tally.counts["journals"] += 1
            shutil.rmtree(paths.data_dir)
    finally:
        patched["keep"] = real
    return tally


def _check(paths: LakeSettings, served: set[str], seed: int, tally: Tally) -> None:
    standing, damage = _standing(paths.journal_dir)
    try:
        ingest(paths, NOW)
        report = ingest(paths, NOW)
    except IngestError as error:
        tally.check(False, seed, f"the books do not close: {error}")
        return
    table = [row["request_id"] for row in rows(paths)]
    tally.counts["rows"] += len(table)
    tally.counts["quarantined"] += report.total.quarantined
    tally.check(len(table) == len(set(table)), seed, "a request id stands twice in the lake")
    tally.check(set(table) <= served, seed, f"rows that nobody wrote: {set(table) - served}")
    tally.check(set(table) == standing, seed, f"whole requests that are no rows: {standing - set(table)}")
    kept = {path.stem: path.read_bytes() for path in (paths.data_dir / "quarantine").glob("*/*.bin")}
    for stem, data in damage.items():
        tally.counts["damaged bytes"] += len(data)
        tally.check(kept.get(stem) == data, seed, f"{stem} is damaged and not in quarantine")


def _standing(root: Path) -> tuple[set[str], dict[str, bytes]]:
    """(requests whose frame is whole, damaged ranges by the name that quarantine gives them)."""
    standing: set[str] = set()
    damage: dict[str, bytes] = {}
    for worker in list_workers(root):
        for segment in list_segments(worker):
            data = segment.path.read_bytes()
            for item in read_segment(segment.path):
                if isinstance(item, Damage):
                    stem = f"{segment.path.stem}-{item.offset:012d}-{item.length}"
                    damage[stem] = data[item.offset : item.end]
                elif item.kind == FrameKind.REQUEST:
                    standing.add(_request_id(item))
    return standing, damage


def _request_id(frame: Frame) -> Any:
    _, _, rest = frame.payload.partition(b'"request_id":"')
    return rest.split(b'"', 1)[0].decode()
