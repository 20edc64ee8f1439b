"""Journal to Delta tables, exactly once. Run by `flows.ingest`, or `ingest(LakeSettings(),
datetime.now(UTC))`.

Reads `data/journal/`, writes the tables requests, reviews and feedback below `data/lake/` and
`data/quarantine/`. Offsets and rows go into one Delta commit: per table, Delta's transaction version of
`journal:<worker>/<segment>` is the committed byte offset. Invariants: rows are decided on one snapshot and
committed only if it is still the newest (else decided again); the offset never passes a request that may
still get its second half; nothing is passed before it is in the commit, counted as dropped, or kept in
quarantine; the ledger closes or `IngestError` is raised. Safe to run again, to kill anywhere, and to run
several at once.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from deltalake import DeltaTable

from lake.erased_ids import ErasedIds, erased_ids
from lake.errors import CommitConflictError, CommitUnknownError, IngestError
from lake.journal import quarantine
from lake.journal.frames import Damage
from lake.journal.index import ID_FIELD, Entry, WorkerIndex, index_worker
from lake.journal.payloads import PayloadError, Row, feedback_row, request_row, response_fields, review_row
from lake.journal.reader import list_workers, parse_payload, read_frame
from lake.journal.removal import reading
from lake.ledger import TABLE_KINDS, Ledger, audit, dropped_id, marker_id
from lake.location import LakeDir
from lake.tables import added_rows, append, existing, open_table

MAX_ROWS = 20_000  # of one commit; a 20,000-row append takes 0.25 s (measured)
MAX_BATCH_BYTES = 64 << 20  # of frames in one commit
MAX_TRIES = 50  # lost races in a row for one batch
_BACKOFF_S = 0.02


class IngestPaths(Protocol):
    """What ingest needs of `LakeSettings`."""

    @property
    def data_dir(self) -> Path: ...

    @property
    def journal_dir(self) -> Path: ...

    @property
    def lake_dir(self) -> LakeDir: ...


@dataclass(slots=True)
class IngestReport:
    """What one run did (`run`) and how the books stand (`total`, over every segment on disk)."""

    run: Ledger = field(default_factory=Ledger)
    total: Ledger = field(default_factory=Ledger)
    workers: int = 0
    alive: int = 0
    rows_added: dict[str, int] = field(default_factory=dict[str, int])
    rows: dict[str, int] = field(default_factory=dict[str, int])
    versions: dict[str, int] = field(default_factory=dict[str, int])
    quarantine_reasons: Counter[str] = field(default_factory=Counter[str])  # of this run
    ignored_fields: Counter[str] = field(default_factory=Counter[str])  # fields this version does not know
    shrunk_workers: list[str] = field(default_factory=list[str])
    lost_races: int = 0
    oldest_pending_s: float | None = None
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": self.run.to_dict(),
            "total": self.total.to_dict(),
            "workers": self.workers,
            "alive": self.alive,
            "rows_added": self.rows_added,
            "rows": self.rows,
            "versions": self.versions,
            "quarantine_reasons": dict(self.quarantine_reasons),
            "ignored_fields": dict(self.ignored_fields),
            "shrunk_workers": self.shrunk_workers,
            "lost_races": self.lost_races,
            "oldest_pending_s": self.oldest_pending_s,
            "seconds": self.seconds,
        }


@dataclass(slots=True)
class _Decision:
    """What becomes of a batch on one snapshot, before anything is written."""

    rows: list[Row] = field(default_factory=list[Row])
    row_frames: int = 0
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])  # by reason and segment
    bad: list[tuple[Entry, str]] = field(default_factory=list[tuple[Entry, str]])
    ignored: Counter[str] = field(default_factory=Counter[str])


def ingest(paths: IngestPaths, now: datetime) -> IngestReport:
    """Bring the tables up to the journal. `now` (UTC) only serves to tell how old a pending request is.

    Raises `IngestError` where the books don't close or a commit fails for good, `SetupError` where a table
    can't be opened. Nothing is lost or doubled by running it again.
    """
    with reading(paths.journal_dir):
        return _ingest(paths, now)


def _ingest(paths: IngestPaths, now: datetime) -> IngestReport:
    started = time.monotonic()
    report = IngestReport(rows_added=dict.fromkeys(TABLE_KINDS, 0))
    quarantine_dir = paths.data_dir / "quarantine"
    for worker in list_workers(paths.journal_dir):
        index = index_worker(worker)
        report.workers += 1
        report.alive += index.alive
        for bad in index.bad:
            if quarantine.keep(quarantine_dir, bad.segment, bad.offset, bad.length, bad.reason):
                report.run.journalled += 1
                report.run.quarantined += 1
                report.quarantine_reasons[bad.reason] += 1
        for name in TABLE_KINDS:
            _ingest_table(paths.lake_dir, quarantine_dir, index, name, report)
        _note_pending(index, now, report)
    books = audit(paths.journal_dir, paths.lake_dir, quarantine_dir)
    report.total, report.rows, report.versions = books.total, books.rows, books.versions
    report.shrunk_workers = books.shrunk
    report.run.pending = report.total.pending
    report.run.journalled += report.total.pending
    report.seconds = time.monotonic() - started
    for name, ledger in {**books.workers, "this run": report.run}.items():
        if not ledger.closes:
            raise IngestError(
                f"The ledger of {name} does not close: {ledger.to_dict()}. Nothing was deleted: keep the "
                "journal, compare its segments with the tables, and report it.",
                report=report.to_dict(),
            )
    return report


def _note_pending(index: WorkerIndex, now: datetime, report: IngestReport) -> None:
    pending = index.pending()
    if pending is None:
        return
    try:
        age_s = (now - datetime.fromisoformat(pending.timestamp)).total_seconds()
    except (ValueError, TypeError):  # a broken time shows once the request is a row
        return
    report.oldest_pending_s = max(age_s, report.oldest_pending_s or 0.0)


def _ingest_table(lake_dir: LakeDir, quarantine_dir: Path, index: WorkerIndex, name: str, report: IngestReport) -> None:
    pending = index.pending() if name == "requests" else None
    ready = index.entries[TABLE_KINDS[name]]
    if pending is not None:
        ready = ready[: ready.index(pending)]
    tries = 0
    while ready:
        table = open_table(lake_dir, name)
        marks = {segment: table.transaction_version(marker_id(segment)) or 0 for segment in index.ends}
        todo = [entry for entry in ready if entry.offset >= marks[entry.segment.name]]
        if not todo:
            return
        batch = _first(todo)
        # Read after the snapshot: an erasure that is recorded later commits to this table too, so this batch conflicts.
        decision = _decide(table, name, batch, erased_ids(lake_dir))
        for entry, reason in decision.bad:  # before the commit that passes them
            if quarantine.keep(quarantine_dir, entry.segment, entry.offset, entry.size, reason):
                report.quarantine_reasons[reason] += 1
        txns = _marks_after(index, marks, todo[len(batch)] if len(batch) < len(todo) else pending)
        for entry in batch:
            if entry.offset >= txns.get(marker_id(entry.segment.name), marks[entry.segment.name]):
                raise IngestError(f"{entry.segment.name}: no mark passes byte {entry.offset}; this is a bug.")
        for (reason, segment), count in decision.dropped.items():
            app_id = dropped_id(reason, segment)
            txns[app_id] = (table.transaction_version(app_id) or 0) + count
        try:
            version = append(lake_dir, name, decision.rows, table=table, txns=txns)
        except (CommitConflictError, CommitUnknownError) as error:
            # Either way the next snapshot tells: its markers are past this batch, or they are not.
            tries += 1
            report.lost_races += isinstance(error, CommitConflictError)
            if tries >= MAX_TRIES:
                raise IngestError(
                    f"The table {name} could not be written in {tries} tries ({error}): run ingest again "
                    "when less is going on, nothing is lost."
                ) from error
            time.sleep(random.uniform(0, _BACKOFF_S * min(tries, 10)))
            continue
        tries = 0
        _book(report, name, decision, added_rows(lake_dir, name, version))


def _book(report: IngestReport, name: str, decision: _Decision, added: int) -> None:
    """Enter a committed batch: what was planned on one side, what Delta's log says it added on the other."""
    report.rows_added[name] += added
    report.run.journalled += decision.row_frames + decision.dropped.total() + len(decision.bad)
    report.run.ingested += decision.row_frames + (added - len(decision.rows))
    for (reason, _), count in decision.dropped.items():
        report.run.dropped[reason] += count
    report.run.quarantined += len(decision.bad)
    report.ignored_fields += decision.ignored


def _first(todo: Sequence[Entry]) -> Sequence[Entry]:
    """As many entries as go into one commit, at least one."""
    size = 0
    for count, entry in enumerate(todo):
        size += entry.size + (entry.response.size if entry.response else 0)
        if count and (count >= MAX_ROWS or size > MAX_BATCH_BYTES):
            return todo[:count]
    return todo


def _marks_after(index: WorkerIndex, marks: Mapping[str, int], following: Entry | None) -> dict[str, int]:
    """Transaction versions to commit: everything before `following` (or all) is done."""
    txns: dict[str, int] = {}
    for segment in index.segments:
        if segment.name not in marks:
            continue
        if following is not None and segment.number > following.segment.number:
            break
        at = following is not None and segment.number == following.segment.number
        mark = following.offset if at and following is not None else index.ends[segment.name]
        if mark > marks[segment.name]:
            txns[marker_id(segment.name)] = mark
    return txns


def _decide(table: DeltaTable, name: str, batch: Sequence[Entry], erased: ErasedIds) -> _Decision:
    decision = _Decision()
    seen = existing(table, ID_FIELD[TABLE_KINDS[name]], {entry.key for entry in batch})
    for entry in batch:
        if erased and (erased.holds(entry.key) or (name != "requests" and erased.names(_payload(entry)))):
            decision.dropped["erased", entry.segment.name] += entry.frames
            continue
        if entry.key in seen:
            decision.dropped["duplicate_id", entry.segment.name] += entry.frames
            continue
        try:
            row = _row(name, entry, decision)
        except PayloadError as error:
            decision.bad.append((entry, f"invalid {name}: {error}"))
            if entry.response is not None:
                decision.bad.append((entry.response, "its request half is invalid"))
            continue
        seen.add(entry.key)
        decision.rows.append(row)
    return decision


def _row(name: str, entry: Entry, decision: _Decision) -> Row:
    ignored: Counter[str] = Counter()
    make = {"requests": request_row, "reviews": review_row, "feedback": feedback_row}[name]
    row = make(_payload(entry), entry.segment.name, entry.seq, ignored)
    decision.row_frames += 1
    if entry.response is not None:
        try:
            row |= response_fields(_payload(entry.response), ignored)
            if row.get("stored") is False:
                row |= {"llm_response_content": None, "error": (row["error"] or "").split(":", 1)[0] or None}
            decision.row_frames += 1
        except PayloadError as error:
            decision.bad.append((entry.response, f"invalid response: {error}"))
            row["error"] = f"its response half is in quarantine ({error})"
    decision.ignored += ignored
    return row


def _payload(entry: Entry) -> Mapping[str, Any]:
    frame = read_frame(entry.segment.path, entry.offset, entry.size)
    payload = None if isinstance(frame, Damage) else parse_payload(frame)
    if isinstance(frame, Damage) or payload is None or frame.kind != entry.kind:
        raise IngestError(f"{entry.segment.name} changed at byte {entry.offset} while it was read: run ingest again.")
    return payload
