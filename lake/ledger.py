"""The books of ingest: every journal frame is in a table, in quarantine, dropped with a reason, or pending.

Reads the journal, the quarantine folder and one snapshot of each table; writes nothing. The figures come from
different places on purpose: `journalled` and `pending` from the segments, `ingested` from rows in the tables,
`quarantined` from files, `dropped` from counters that were committed together with the rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.compute as pc
from deltalake import DeltaTable

from lake.journal.index import WorkerIndex, index_worker
from lake.journal.quarantine import kept
from lake.journal.reader import list_workers
from lake.location import LakeDir
from lake.schemas.records import FrameKind
from lake.tables import open_table

TABLE_KINDS = {"requests": FrameKind.REQUEST, "reviews": FrameKind.REVIEW, "feedback": FrameKind.FEEDBACK}
DROP_REASONS = ("duplicate_id", "erased")


def marker_id(segment: str) -> str:
    """Delta application id whose version is the committed byte offset of a segment, in each table."""
    return f"journal:{segment}"


def dropped_id(reason: str, segment: str) -> str:
    """Delta application id whose version counts the frames of a segment dropped for `reason`."""
    return f"journal-dropped:{reason}:{segment}"


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

    @property
    def total(self) -> Ledger:
        total = Ledger()
        for ledger in self.workers.values():
            total.add(ledger)
        return total


def audit(journal_dir: Path, lake_dir: LakeDir, quarantine_dir: Path) -> Audit:
    """Count everything anew. The tables are read first, so whatever they hold is in the segments read
    after.
    """
    tables = {name: open_table(lake_dir, name) for name in TABLE_KINDS}
    rows = {name: _rows_by_segment(table, name) for name, table in tables.items()}
    result = Audit(
        rows={name: sum(count for count, _, _ in counts.values()) for name, counts in rows.items()},
        versions={name: table.version() for name, table in tables.items()},
    )
    workers = list_workers(journal_dir)
    held = {worker: kept(quarantine_dir, worker) for worker in workers}
    for worker in workers:
        index = index_worker(worker)
        ledger = _worker_ledger(index, tables, rows, held[worker])
        if ledger is None:
            result.shrunk.append(worker.name)
        else:
            result.workers[worker.name] = ledger
    return result


def _rows_by_segment(table: DeltaTable, name: str) -> dict[str, tuple[int, int, int]]:
    """Per segment: rows, rows with a second half, rows that repeat a sequence number."""
    second = pc.field("backend").is_valid() if name == "requests" else pc.scalar(False)
    columns = {"segment": pc.field("segment"), "seq": pc.field("seq"), "second": second}
    frame = pl.DataFrame(table.to_pyarrow_dataset().to_table(columns=columns))
    counted = frame.group_by("segment").agg(
        pl.len().alias("rows"),
        pl.col("second").sum().alias("second"),
        pl.col("seq").n_unique().alias("distinct"),
    )
    return {
        segment: (count, seconds, count - distinct)
        for segment, count, seconds, distinct in counted.select("segment", "rows", "second", "distinct").iter_rows()
    }


def _worker_ledger(
    index: WorkerIndex,
    tables: dict[str, DeltaTable],
    rows: dict[str, dict[str, tuple[int, int, int]]],
    held: set[tuple[str, int]],
) -> Ledger | None:
    ledger = Ledger(journalled=index.journalled)
    ledger.dropped["duplicate_response"] += index.duplicate_responses
    ledger.quarantined = sum(1 for place in held - index.forgotten if place[0] in index.ends)
    ledger.pending = sum(1 for bad in index.bad if (bad.segment.name, bad.offset) not in held)
    for name, kind in TABLE_KINDS.items():
        marks: dict[str, int] = {}
        for segment, end in index.ends.items():
            marks[segment] = tables[name].transaction_version(marker_id(segment)) or 0
            if marks[segment] > end:
                return None
            count, seconds, repeated = rows[name].get(segment, (0, 0, 0))
            ledger.ingested += count + seconds
            ledger.duplicated_rows += repeated
            for reason in DROP_REASONS:
                ledger.dropped[reason] += tables[name].transaction_version(dropped_id(reason, segment)) or 0
        for entry in index.entries[kind]:
            if entry.offset >= marks[entry.segment.name]:
                parts = (entry, entry.response) if entry.response else (entry,)
                ledger.pending += sum(1 for part in parts if (part.segment.name, part.offset) not in held)
    ledger.dropped += Counter()  # leaves out the zeros
    return ledger
