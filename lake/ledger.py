"""The books of ingest: every journal frame is in a table, in quarantine, dropped with a reason, or pending.

Reads the quarantine folder, one snapshot of each table, and of the journal what lies beyond the marks (or all of it);
writes nothing. The figures come from different places on purpose: `journalled` and `pending` from the segments, as
they were read once, `ingested` from rows in the tables, `quarantined` from files, `dropped` from counters that were
committed together with the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.compute as pc
from deltalake import DeltaTable

from lake.journal.blocks import Progress, WorkerScan
from lake.journal.index import Bad, Entry, WorkerIndex, index_worker
from lake.journal.quarantine import kept
from lake.journal.reader import list_workers
from lake.location import LakeDir
from lake.marks import DROP_REASONS, TABLE_KINDS, Marks, progress_of
from lake.schemas.records import FrameKind
from lake.tables import read_columns

_BLOCK_ROWS, _BLOCK_BYTES = 50_000, 64 << 20  # of what is looked at at once

RowCounts = dict[str, tuple[int, int, int]]
Places = set[tuple[str, int]]  # segment name, offset


@dataclass(slots=True)
class Ledger:
    """Counts of frames (a request has two once it is answered) and of damaged ranges (one each)."""

    journalled: int = 0
    ingested: int = 0
    quarantined: int = 0
    dropped: Counter[str] = field(default_factory=Counter[str])
    pending: int = 0
    duplicated_rows: int = 0  # rows that stand in a table twice

    @property
    def closes(self) -> bool:
        accounted = self.ingested + self.quarantined + self.dropped.total() + self.pending
        return self.journalled == accounted and not self.duplicated_rows

    def add(self, other: Ledger) -> None:
        self.journalled += other.journalled
        self.ingested += other.ingested
        self.quarantined += other.quarantined
        self.dropped += other.dropped
        self.pending += other.pending
        self.duplicated_rows += other.duplicated_rows

    def to_dict(self) -> dict[str, Any]:
        return {
            "journalled": self.journalled,
            "ingested": self.ingested,
            "quarantined": self.quarantined,
            "dropped": dict(self.dropped),
            "pending": self.pending,
            "duplicated_rows": self.duplicated_rows,
            "closes": self.closes,
        }


@dataclass(slots=True)
class Audit:
    """Ledger of each worker on disk. `shrunk`: workers left out because a segment is shorter than what was
    ingested from it (a power cut can do that); their rows are safe in the tables."""

    workers: dict[str, Ledger] = field(default_factory=dict[str, Ledger])
    shrunk: list[str] = field(default_factory=list[str])
    rows: dict[str, int] = field(default_factory=dict[str, int])
    versions: dict[str, int] = field(default_factory=dict[str, int])
    oldest_pending_s: float | None = None

    @property
    def total(self) -> Ledger:
        total = Ledger()
        for ledger in self.workers.values():
            total.add(ledger)
        return total


def audit(journal_dir: Path, lake_dir: LakeDir, quarantine_dir: Path, now: datetime, *, whole: bool = False) -> Audit:
    """Count everything on one snapshot of the tables, read before the segments: whatever they hold is in those.

    What lies before the marks was counted as it was read, and these counts stand in the commits of the rows; with
    `whole` every segment is read again and counted anew. `now` (UTC) tells how old a pending request is.
    """
    marks = {name: Marks(lake_dir, name) for name in TABLE_KINDS}
    rows = {name: _rows_by_segment(held.table, name) for name, held in marks.items()}
    result = Audit(
        rows={name: sum(count for count, _, _ in counts.values()) for name, counts in rows.items()},
        versions={name: held.table.version() for name, held in marks.items()},
    )
    for worker in list_workers(journal_dir):
        held = kept(quarantine_dir, worker)  # before the segments: what is kept later is still among what is new
        scan = WorkerScan(worker, _BLOCK_ROWS, _BLOCK_BYTES)
        progress = progress_of(marks, scan)
        if any(marks[name].offset(segment) > size for name in marks for segment, size in scan.sizes.items()):
            result.shrunk.append(worker.name)
            continue
        accounted = _accounted(scan, marks, rows)
        if whole or progress.adopt:
            _count_anew(index_worker(worker), marks, progress, held, accounted)
        else:
            _count_new(scan, marks, progress, held, accounted)
            _note_pending(scan.rest.oldest, now, result)
        result.workers[worker.name] = accounted
    return result


def _note_pending(timestamp: str, now: datetime, result: Audit) -> None:
    try:
        age_s = (now - datetime.fromisoformat(timestamp)).total_seconds()
    except (ValueError, TypeError):  # nothing is pending, or a broken time, which shows once the request is a row
        return
    result.oldest_pending_s = max(age_s, result.oldest_pending_s or 0.0)


def _rows_by_segment(table: DeltaTable, name: str) -> RowCounts:
    """Per segment: rows, rows with a second half, rows that repeat a sequence number."""
    second = pc.field("backend").is_valid() if name == "requests" else pc.scalar(False)
    columns = {"segment": pc.field("segment"), "seq": pc.field("seq"), "second": second}
    frame = pl.DataFrame(read_columns(table, columns))
    counted = frame.group_by("segment").agg(
        pl.len().alias("rows"),
        pl.col("second").sum().alias("second"),
        pl.col("seq").n_unique().alias("distinct"),
    )
    return {
        segment: (count, seconds, count - distinct)
        for segment, count, seconds, distinct in counted.select("segment", "rows", "second", "distinct").iter_rows()
    }


def _accounted(scan: WorkerScan, marks: Mapping[str, Marks], rows: Mapping[str, RowCounts]) -> Ledger:
    """What became of a worker's frames, as tables and commits tell."""
    ledger = Ledger()
    for name, held in marks.items():
        for segment in scan.sizes:
            count, seconds, repeated = rows[name].get(segment, (0, 0, 0))
            ledger.ingested += count + seconds
            ledger.duplicated_rows += repeated
            for reason in DROP_REASONS:
                ledger.dropped[reason] += held.dropped(reason, segment)
    ledger.dropped += Counter()  # leaves out the zeros
    return ledger


def _count_new(scan: WorkerScan, marks: Mapping[str, Marks], progress: Progress, held: Places, ledger: Ledger) -> None:
    """Journalled: what was counted when it was read, and what lies beyond the marks now."""
    ledger.quarantined = sum(1 for segment, _ in held if segment in scan.sizes)
    ledger.journalled = sum(one.frames(segment) or 0 for one in marks.values() for segment in scan.sizes)
    if not scan.is_new(progress):
        return
    for block in scan.blocks(progress):
        entries = [entry for entries in block.entries.values() for entry in entries]
        _pend(chain(entries, (one.response for one in entries), block.repeats, block.late), held, ledger)
        _pend(block.bad_before, held, ledger)
    ledger.journalled += len(scan.rest.places)
    ledger.pending += sum(1 for place in scan.rest.places if place not in held)


def _pend(found: Iterable[Entry | Bad | None], held: Places, ledger: Ledger) -> None:
    for one in found:
        if one is not None:
            ledger.journalled += 1
            ledger.pending += (one.segment.name, one.offset) not in held


def open_halves(index: WorkerIndex, requests: Marks, done: Places) -> Iterator[Entry]:
    """Halves that the mark of `requests` has not passed and that are not `done` (in quarantine, or taken ahead)."""
    entries = index.entries[FrameKind.REQUEST]
    answers = (one.response for one in entries if one.response is not None)
    for half in chain(entries, index.repeats, answers):
        if half.offset >= requests.offset(half.segment.name) and (half.segment.name, half.offset) not in done:
            yield half


def _count_anew(
    index: WorkerIndex, marks: Mapping[str, Marks], progress: Progress, held: Places, ledger: Ledger
) -> None:
    """Journalled: every frame on disk. Pending: those that no table has passed, taken ahead, or put into quarantine."""
    ledger.journalled = index.journalled
    ledger.quarantined = sum(1 for place in held - index.forgotten if place[0] in index.ends)
    ledger.pending += sum(1 for _ in open_halves(index, marks["requests"], held | progress.ahead))
    ledger.pending += sum(1 for bad in index.bad if (bad.segment.name, bad.offset) not in held)
    for name, kind in TABLE_KINDS.items():
        if kind != FrameKind.REQUEST:
            ledger.pending += sum(
                1
                for entry in index.entries[kind]
                if entry.offset >= marks[name].offset(entry.segment.name)
                and (entry.segment.name, entry.offset) not in held
            )
