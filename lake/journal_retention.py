"""Takes whole journal segments away once the lake has all of them and they are old enough; oldest first.

Reads the tables' marks, the quarantine folder and the segments; removes `data/journal/<worker>/<n>.mjl`, and the
folder of an ended worker that has none left. Invariants: what goes is in a table, in quarantine, or counted as
dropped; a request that may still get its second half stays, and with it everything after it; the segment being
written stays; the remaining segments of a worker are always the latest ones, after a power cut too, so that the
ledger still closes (`lake/journal/index.py` knows that responses may outlive their requests). Safe beside writers,
ingesters and look-ups, to kill anywhere and to repeat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lake.files import fsync_dir
from lake.journal.index import WorkerIndex, index_worker
from lake.journal.quarantine import kept
from lake.journal.reader import Segment, list_segments, list_workers
from lake.journal.removal import removing
from lake.journal.segments import LOCK_NAME
from lake.ledger import open_halves
from lake.location import LakeDir
from lake.marks import TABLE_KINDS, Marks
from lake.schemas.records import FrameKind

_NAMED = 100  # of a report
_WAIT_S = 30.0  # for ingesters; the next run finds the same segments


@dataclass(slots=True)
class JournalRemoval:
    """What went, and what stayed by reason: young, being_written, not_ingested, not_in_quarantine, shrunk, busy."""

    segments: int = 0
    bytes: int = 0
    workers: int = 0  # folders that went as a whole
    kept: Counter[str] = field(default_factory=Counter[str])
    names: list[str] = field(default_factory=list[str])

    def to_dict(self) -> dict[str, Any]:
        return {
            "segments": self.segments,
            "bytes": self.bytes,
            "workers": self.workers,
            "kept": dict(self.kept),
            "names": self.names[:_NAMED],
        }


def remove_ingested(
    journal_dir: Path,
    lake_dir: LakeDir,
    quarantine_dir: Path,
    keep_days: float,
    now: datetime,
    *,
    dry_run: bool = False,
) -> JournalRemoval:
    """Remove what was written last more than `keep_days` before `now` (UTC) and is wholly in the lake.

    With `dry_run` nothing is touched and the report says what would go. Raises `SetupError` where a table can't be
    read, `OSError` where a file can't be removed.
    """
    report = JournalRemoval()
    with removing(journal_dir, _WAIT_S) as alone:
        marks: dict[str, Marks] | None = None
        for worker in list_workers(journal_dir):
            segments = list_segments(worker)
            if not alone:
                report.kept["busy"] += len(segments)
                continue
            if segments and not _is_old(segments[0], keep_days, now):  # most workers: nothing is read
                report.kept["young"] += len(segments)
                continue
            marks = marks or {name: Marks(lake_dir, name) for name in TABLE_KINDS}
            index = index_worker(worker)
            held = kept(quarantine_dir, worker)
            _remove(index, _done(index, marks, held, keep_days, now, report), report, dry_run)
    return report


def _is_old(segment: Segment, keep_days: float, now: datetime) -> bool:
    return now - datetime.fromtimestamp(segment.path.stat().st_mtime, UTC) > timedelta(days=keep_days)


def _done(
    index: WorkerIndex,
    marks: Mapping[str, Marks],
    held: set[tuple[str, int]],
    keep_days: float,
    now: datetime,
    report: JournalRemoval,
) -> list[Segment]:
    """The leading segments that may go; why the first of the others stays is counted for all of them."""
    waiting = _waiting(index, marks, held)
    unkept = {bad.segment.name for bad in index.bad if (bad.segment.name, bad.offset) not in held}
    shrunk = {
        segment
        for segment, end in index.ends.items()
        if any(of_table.offset(segment) > end for of_table in marks.values())
    }
    for position, segment in enumerate(index.segments):
        reason = ""
        if index.alive and position == len(index.segments) - 1:
            reason = "being_written"
        elif not _is_old(segment, keep_days, now):
            reason = "young"
        elif segment.name in waiting:
            reason = "not_ingested"
        elif segment.name in unkept:
            reason = "not_in_quarantine"
        elif segment.name in shrunk or segment.name not in index.ends:
            reason = "shrunk"
        if reason:
            report.kept[reason] += len(index.segments) - position
            return index.segments[:position]
    return index.segments


def _waiting(index: WorkerIndex, marks: Mapping[str, Marks], held: set[tuple[str, int]]) -> set[str]:
    """Names of segments with a record that its table's mark has not passed (pending ones among them); a second half
    may have been taken ahead of the mark.
    """
    done = held | (marks["requests"].ahead(index.directory.name) or frozenset())
    found = {half.segment.name for half in open_halves(index, marks["requests"], done)}
    for name, kind in TABLE_KINDS.items():
        if kind != FrameKind.REQUEST:
            of_table, entries = marks[name], index.entries[kind]
            found |= {one.segment.name for one in entries if one.offset >= of_table.offset(one.segment.name)}
    return found


def _remove(index: WorkerIndex, segments: list[Segment], report: JournalRemoval, dry_run: bool) -> None:
    for segment in segments:
        size = segment.path.stat().st_size
        if not dry_run:
            segment.path.unlink()
            fsync_dir(index.directory)  # one by one: a power cut must not keep an older segment than it takes
        report.segments += 1
        report.bytes += size
        report.names.append(segment.name)
    if index.alive or len(segments) < len(index.segments):
        return
    others = {path.name for path in index.directory.iterdir()} - {LOCK_NAME, *(one.path.name for one in segments)}
    if others:  # not ours to remove
        return
    report.workers += 1
    if not dry_run:
        (index.directory / LOCK_NAME).unlink(missing_ok=True)
        index.directory.rmdir()
        fsync_dir(index.directory.parent)
