"""Journal to Delta tables, exactly once. Run by `flows.ingest`, or `ingest(LakeSettings(),
datetime.now(UTC))`.

Reads what is new in `data/journal/`, writes the tables requests, reviews and feedback below `data/lake/` and
`data/quarantine/`. Offsets and rows go into one Delta commit (`lake/marks.py` says which numbers). Invariants: rows
are decided on one snapshot and committed only if it is still the newest (else decided again); the offset never passes
a request that may still get its second half; the mark of `requests` moves last, so whatever lies before it is in its
table; nothing is passed before it is in the commit, counted as dropped, or kept in quarantine; the ledger closes or
`IngestError` is raised. Safe to run again, to kill anywhere, and to run several at once. Memory is bounded by the
block: the next one is read and parsed while the last is written.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import orjson

from lake.erased_ids import ErasedIds, erased_ids
from lake.errors import CommitConflictError, CommitUnknownError, IngestError
from lake.ingest_rows import Decision, Prepared, UnusualPayloadError, decide, prepare
from lake.journal import quarantine
from lake.journal.blocks import Block, Progress, WorkerScan
from lake.journal.index import index_worker
from lake.journal.reader import list_workers
from lake.journal.removal import reading
from lake.ledger import Ledger, audit
from lake.location import LakeDir
from lake.marks import (
    AHEAD_KEY,
    REPEAT,
    TABLE_KINDS,
    Marks,
    ahead_id,
    dropped_id,
    frames_id,
    marker_id,
    progress_of,
)  # fmt: skip
from lake.schemas.records import FrameKind
from lake.tables import added_rows, append, existing

MAX_ROWS = 50_000  # of one commit
MAX_BATCH_BYTES = 64 << 20  # of frames in one commit; what a run holds in memory is some four times that
MAX_TRIES = 50  # lost races in a row for one block
_BACKOFF_S = 0.02


class IngestPaths(Protocol):
    """What ingest needs of `LakeSettings`."""

    @property
    def data_dir(self) -> Path: ...

    @property
    def journal_dir(self) -> Path: ...

    @property
    def lake_dir(self) -> LakeDir: ...

    @property
    def unmasked_types(self) -> frozenset[str]: ...


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
    masked: Counter[str] = field(default_factory=Counter[str])  # personal data, by type
    shrunk_workers: list[str] = field(default_factory=list[str])
    blocks: int = 0
    odd_blocks: int = 0  # parsed record by record, since one of theirs was unusual
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
            "masked": dict(self.masked),
            "shrunk_workers": self.shrunk_workers,
            "blocks": self.blocks,
            "odd_blocks": self.odd_blocks,
            "lost_races": self.lost_races,
            "oldest_pending_s": self.oldest_pending_s,
            "seconds": self.seconds,
        }


class _StaleError(Exception):
    """Somebody else took records of this worker: what was read is to be read again from the new marks."""


def ingest(paths: IngestPaths, now: datetime, *, whole: bool = False) -> IngestReport:
    """Bring the tables up to the journal. `now` (UTC) only serves to tell how old a pending request is.

    `whole`: read the whole journal once more and count everything anew. Raises `IngestError` where the books don't
    close or a commit fails for good, `SetupError` where a table can't be opened. Nothing is lost or doubled by running
    it again.
    """
    with reading(paths.journal_dir):
        return _ingest(paths, now, whole)


def _ingest(paths: IngestPaths, now: datetime, whole: bool) -> IngestReport:
    started = time.monotonic()
    report = IngestReport(rows_added=dict.fromkeys(TABLE_KINDS, 0))
    quarantine_dir = paths.data_dir / "quarantine"
    run = _Run(paths.lake_dir, quarantine_dir, paths.unmasked_types, report)
    for worker in list_workers(paths.journal_dir):
        report.workers += 1
        run.take(worker)
    books = audit(paths.journal_dir, paths.lake_dir, quarantine_dir, now, whole=whole)
    if run.keep_again([paths.journal_dir / name for name, ledger in books.workers.items() if not ledger.closes]):
        books = audit(paths.journal_dir, paths.lake_dir, quarantine_dir, now, whole=whole)
    report.total, report.rows, report.versions = books.total, books.rows, books.versions
    report.shrunk_workers, report.oldest_pending_s = books.shrunk, books.oldest_pending_s
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


@dataclass(slots=True)
class _Ready:
    """A block, read and parsed; one `Prepared` a table."""

    block: Block
    prepared: dict[str, Prepared]


class _Run:
    """One run over all workers: the snapshots it stands on and what it has to report."""

    def __init__(self, lake_dir: LakeDir, quarantine_dir: Path, mask_off: frozenset[str], report: IngestReport) -> None:
        self._lake_dir = lake_dir
        self._mask_off = mask_off
        self._quarantine_dir = quarantine_dir
        self._report = report
        self._marks = {name: Marks(lake_dir, name) for name in TABLE_KINDS}
        self._tries = 0

    def take(self, worker: Path) -> None:
        """Everything of one worker that is not in the tables yet."""
        strict = counted = False
        while True:
            scan = WorkerScan(worker, MAX_ROWS, MAX_BATCH_BYTES, strict=strict)
            self._report.alive += scan.alive and not counted
            counted = True
            progress = progress_of(self._marks, scan)
            if not scan.is_new(progress):
                return
            books = _Books(self._marks, scan, progress)
            try:
                with closing(_read_ahead(scan, progress, self._mask_off)) as blocks:
                    for ready in blocks:
                        self._commit_block(ready, books)
                return
            except _StaleError:
                continue
            except UnusualPayloadError:
                if strict:
                    raise IngestError(f"{worker.name} changed while it was read: run ingest again.") from None
                strict = True

    def keep_again(self, workers: list[Path]) -> int:
        """Copy damage into quarantine whose copy was taken away; how many ranges. Reads these workers whole."""
        count = 0
        for worker in workers:
            for bad in index_worker(worker).bad:
                if quarantine.keep(self._quarantine_dir, bad.segment, bad.offset, bad.length, bad.reason):
                    self._report.quarantine_reasons[bad.reason] += 1
                    count += 1
        self._report.run.journalled += count
        self._report.run.quarantined += count
        return count

    def _commit_block(self, ready: _Ready, books: _Books) -> None:
        report = self._report
        for bad in ready.block.bad:
            if quarantine.keep(self._quarantine_dir, bad.segment, bad.offset, bad.length, bad.reason):
                report.run.journalled += 1
                report.run.quarantined += 1
                report.quarantine_reasons[bad.reason] += 1
        report.blocks += any(prepared.entries for prepared in ready.prepared.values())
        report.odd_blocks += any(prepared.rows is None for prepared in ready.prepared.values())
        moved = [self._commit(name, ready, books) for name in ("reviews", "feedback")]
        self._commit("requests", ready, books, moved=any(moved))

    def _commit(self, name: str, ready: _Ready, books: _Books, *, moved: bool = False) -> bool:
        """One table's part of a block; False where there is nothing to write."""
        marks, block, kind = self._marks[name], ready.block, TABLE_KINDS[name]
        adopted = any(one == kind for one, _ in block.adopted)
        passed = name == "requests" and (moved or block.bad_before or block.repeats or block.late)
        if not (ready.prepared[name].entries or adopted or passed):
            return False
        while True:
            # Read after the snapshot: an erasure that is recorded later commits to this table too, so this conflicts.
            erased = erased_ids(self._lake_dir)
            decision = decide(marks.table, ready.prepared[name], erased)
            if name == "requests":
                self._decide_halves(block, decision, erased)
            for one, reason in decision.bad:  # before the commit that passes them
                if quarantine.keep(self._quarantine_dir, one.segment, one.offset, one.size, reason):
                    self._report.quarantine_reasons[reason] += 1
            entry = books.after(name, block, ready.prepared[name], decision)
            try:
                version = append(
                    self._lake_dir, name, decision.rows,
                    table=marks.table, txns=entry.versions, metadata=entry.metadata,
                )  # fmt: skip
            except (CommitConflictError, CommitUnknownError) as error:
                self._lost(name, error, books)
                continue
            self._tries = 0
            books.hold(name, entry)
            self._book(name, decision, added_rows(self._lake_dir, name, version))
            return True

    def _decide_halves(self, block: Block, decision: Decision, erased: ErasedIds) -> None:
        """Second halves without an open request: of one that has its own, an erased one, or none that is known."""
        known = existing(self._marks["requests"].table, "request_id", {entry.key for entry in block.late})
        for entry in block.repeats:
            decision.drop_half(REPEAT, entry)
        for entry in block.late:
            if erased.holds(entry.key):
                decision.drop_half("erased", entry)
            elif entry.key in known:
                decision.drop_half(REPEAT, entry)
            else:
                decision.bad.append((entry, "orphan_response"))

    def _lost(self, name: str, error: IngestError, books: _Books) -> None:
        """After a lost race, or one whose outcome is unknown: the next snapshot tells what of this worker is taken."""
        self._tries += 1
        self._report.lost_races += isinstance(error, CommitConflictError)
        if self._tries >= MAX_TRIES:
            raise IngestError(
                f"The table {name} could not be written in {self._tries} tries ({error}): run ingest again "
                "when less is going on, nothing is lost."
            ) from error
        time.sleep(random.uniform(0, _BACKOFF_S * min(self._tries, 10)))
        for marks in self._marks.values():
            marks.reload()
        if books.is_stale():
            self._tries = 0  # the rival got on, and so does the journal
            raise _StaleError

    def _book(self, name: str, decision: Decision, added: int) -> None:
        """Enter a committed block: what was planned on one side, what Delta's log says it added on the other."""
        report = self._report
        report.rows_added[name] += added
        report.run.journalled += decision.row_frames + decision.dropped.total() + len(decision.bad)
        report.run.ingested += decision.row_frames + (added - decision.rows.num_rows)
        for (reason, _), count in decision.dropped.items():
            report.run.dropped[reason] += count
        report.run.quarantined += len(decision.bad)
        report.ignored_fields += decision.ignored
        report.masked += decision.masked


@dataclass(frozen=True, slots=True)
class _Entry:
    """What to write beside the rows of a block, and the counts that hold once it is written."""

    versions: dict[str, int]
    metadata: dict[str, str] | None
    frames: Counter[str]
    repeats: Counter[str]


class _Books:
    """What the tables remember of one worker, carried from block to block of one scan.

    Where an earlier version counted nothing (`adopt`), counting begins at nought, with what lies before the marks.
    """

    def __init__(self, marks: dict[str, Marks], scan: WorkerScan, progress: Progress) -> None:
        self._marks, self._worker = marks, scan.directory.name
        self._segments = [segment.name for segment in scan.segments]
        self._frames: dict[str, Counter[str]] = {name: Counter() for name in marks}
        self._repeats: Counter[str] = Counter()
        if not progress.adopt:
            self._frames = {
                name: Counter({one: held.frames(one) or 0 for one in self._segments}) for name, held in marks.items()
            }
            self._repeats.update({one: marks["requests"].dropped(REPEAT, one) for one in self._segments})
        self._seen = self._view()

    def _view(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(held.offset(one) for one in self._segments) for name, held in self._marks.items()}

    def is_stale(self) -> bool:
        """Whether the marks are no longer those that this scan went by."""
        return self._view() != self._seen

    def after(self, name: str, block: Block, prepared: Prepared, decision: Decision) -> _Entry:
        """What to commit with a block. Changes nothing: a lost race asks again."""
        held, kind = self._marks[name], TABLE_KINDS[name]
        frames, repeats = Counter(self._frames[name]), Counter(self._repeats)
        quarantined = {id(entry) for entry, _ in decision.bad}
        for entry in prepared.entries:  # a second half counts with its request, in quarantine where it lies
            frames[entry.segment.name] += entry.frames - (id(entry.response) in quarantined)
        frames.update(entry.segment.name for entry, _ in decision.bad if entry.kind == FrameKind.RESPONSE)
        frames.update(decision.halves)
        for (adopted, segment), count in block.adopted.items():
            frames[segment] += count if adopted == kind else 0
        marks, metadata = block.other_marks, None
        versions: dict[str, int] = {}
        for (reason, segment), count in decision.dropped.items():
            if reason == REPEAT:
                repeats[segment] += count
            else:
                versions[dropped_id(reason, segment)] = held.dropped(reason, segment) + count
        if name == "requests":
            marks = block.marks
            frames.update(bad.segment.name for bad in block.bad_before)
            repeats.update(block.adopted_repeats)
            versions |= {dropped_id(REPEAT, one): n for one, n in repeats.items() if n != held.dropped(REPEAT, one)}
            if block.ahead:
                places = [(segment.rsplit("/", 1)[1], offset) for segment, offset in block.ahead]
                metadata = {AHEAD_KEY: orjson.dumps(places).decode()}
                versions[ahead_id(self._worker)] = held.table.version() + 1
            elif held.versions.get(ahead_id(self._worker)):
                versions[ahead_id(self._worker)] = 0
        new = {segment: mark for segment, mark in marks.items() if mark > held.offset(segment)}
        versions |= {marker_id(segment): mark for segment, mark in new.items()}
        versions |= {frames_id(one): frames[one] for one in {*new, *frames} if held.frames(one) != frames[one]}
        return _Entry(versions, metadata, frames, repeats)

    def hold(self, name: str, entry: _Entry) -> None:
        """The commit stands: the next block counts on from there."""
        self._marks[name].versions |= entry.versions
        self._frames[name], self._repeats = entry.frames, entry.repeats if name == "requests" else self._repeats
        self._seen = self._view()


def _read_ahead(scan: WorkerScan, progress: Progress, mask_off: frozenset[str]) -> Generator[_Ready]:
    """The blocks of a scan, each read and parsed in a thread of its own while the one before is committed."""
    blocks = scan.blocks(progress)

    def following() -> _Ready | None:
        block = next(blocks, None)
        if block is None:
            return None
        prepared = {name: prepare(name, block.entries.get(kind, []), mask_off) for name, kind in TABLE_KINDS.items()}
        return _Ready(block, prepared)

    with ThreadPoolExecutor(1, "ingest-read") as thread:
        waiting = thread.submit(following)
        while (ready := waiting.result()) is not None:
            waiting = thread.submit(following)
            yield ready
