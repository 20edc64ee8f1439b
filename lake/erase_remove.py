"""The bytes of an erasure: taken from every file within its window, then searched for.

Reads and writes journals, quarantine, tables' folders, datasets, caches, reports, run files and exports. Invariants:
ingest has passed whatever is blanked; what can't be removed yet is named in `waiting`, and then nothing counts as
removed; the search knows the words that others said too, and leaves those out by name of their number.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from lake import erase_journal
from lake.erase_files import clear, forget_answers, remove_folder
from lake.erase_journal import clear_quarantine, find_spots, overwrite, passed_by, quarantined
from lake.erase_log import purge_tables
from lake.erase_plan import Subject, other_files
from lake.erase_search import Finding, Tally, Words, search_lake, search_tree
from lake.erase_tables import redact_reports, shared_words
from lake.erase_work import Work
from lake.ingest import ingest
from lake.journal.quarantine import kept
from lake.journal.removal import removing
from lake.lineage_files import dataset_folders
from lake.marks import TABLE_KINDS, marker_id
from lake.rules.shingles import question_keys
from lake.schemas.records import FrameKind
from lake.settings import LakeSettings
from lake.split_store import SplitStore
from lake.tables import open_table

_WAIT_S = 60.0  # for ingests to end; the next run finds the same frames


@dataclass(slots=True)
class Removal:
    """What went. `waiting`: what keeps bytes on the disk for now, and why. `shared`: words that others said too."""

    frames: int = 0
    private_frames: int = 0
    quarantine: int = 0
    run_reports: int = 0
    table_files: list[str] = field(default_factory=list[str])
    log_files: list[str] = field(default_factory=list[str])
    datasets: list[str] = field(default_factory=list[str])
    ggufs: list[str] = field(default_factory=list[str])
    answers: int = 0
    split_keys: int = 0
    files: list[str] = field(default_factory=list[str])
    unknown_files: list[str] = field(default_factory=list[str])  # of a kind that is not changed: the search will say
    waiting: list[str] = field(default_factory=list[str])
    shared: int = 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def remove(
    paths: LakeSettings,
    work: Work,
    now: datetime,
    log: Callable[[str], None] = print,
    point: Callable[[str], None] = lambda _: None,
) -> Removal:
    """Take the bytes away. `now` is UTC. Safe to kill anywhere and to repeat. Raises `IngestError`, `OSError`."""
    removal = Removal()
    ingest(paths, now)  # so that the marks pass whatever is journalled
    point("ingested")
    subject = work.subject
    shared = shared_with_others(paths, subject)
    words = subject.words(shared - subject.ids)  # an id is taken out also where somebody else's text mentions it
    removal.shared = len(shared)
    removal.run_reports = redact_reports(paths.lake_dir, words)
    point("reports of runs")
    with removing(paths.journal_dir, _WAIT_S) as alone:  # then no ingest runs
        _journals(paths, subject, words, removal, alone, point)
        purge = purge_tables(paths.lake_dir, words, now, TABLE_KINDS if alone else ())
    removal.table_files, removal.log_files = purge.files, purge.log_files
    removal.waiting += [f"{file} may belong to an append under way" for file in purge.waiting]
    point("table files")
    for version in work.datasets:
        if remove_folder(paths.datasets_dir / version):
            removal.datasets.append(version)
        (paths.datasets_dir / f"{version}.redacted").unlink(missing_ok=True)
        point("dataset removed")
    for adapter_id in work.adapters:
        if remove_folder(paths.gguf_dir / adapter_id):
            removal.ggufs.append(adapter_id)
        point("export removed")
    removal.answers = forget_answers(paths.data_dir, subject.ids)
    point("answers forgotten")
    removal.split_keys = _forget_splits(paths, subject.questions)
    point("splits forgotten")
    _files(paths, work, words, removal)
    point("files")
    log(f"erasure {work.erasure_id}: {removal.frames} frames, {len(removal.table_files)} data files, files removed")
    return removal


def shared_with_others(paths: LakeSettings, subject: Subject) -> set[str]:
    """Words that others said too, or that stand in the sample data or the catalogue: finding them proves nothing."""
    words, ids = subject.words(), frozenset(subject.ids)
    shared = shared_words(paths.lake_dir, words)
    shared |= erase_journal.shared_words(paths.journal_dir, ids, words, paths.data_dir / "quarantine")
    shared |= erase_journal.shared_words(paths.private_journal_dir, ids, words)
    for folder in (paths.sample_dir, paths.index_dir):
        if folder.is_dir():
            shared |= {word for word in words.words - shared if any(search_tree(folder, Words([word])))}
    return shared


def _journals(
    paths: LakeSettings, subject: Subject, words: Words, removal: Removal, alone: bool, point: Callable[[str], None]
) -> None:
    ids = frozenset(subject.ids)
    quarantine = paths.data_dir / "quarantine"
    spots = find_spots(paths.journal_dir, ids, words, quarantine)
    ready, early = passed_by(spots, _passed(paths, quarantine))
    files = quarantined(quarantine, spots, words)
    busy = overwrite(ready, alone)
    point("frames")
    clear_quarantine(files)
    point("quarantine")
    removal.frames, removal.quarantine = len(ready) - len(busy), len(files)
    if early:
        removal.waiting.append(f"{len(early)} journal frames wait for the end of their request")
    if busy:
        removal.waiting.append(f"{len(busy)} journal frames lie in a segment that is being written and read")
    private = find_spots(paths.private_journal_dir, ids, words)
    overwrite(private, alone=True)  # nothing but look-ups reads it
    removal.private_frames = len(private)
    point("private frames")


def _passed(paths: LakeSettings, quarantine: Path) -> Callable[[str, int, int], bool]:
    """Whether ingest is past a record: its table's mark is, or it is kept in quarantine."""
    tables = {kind: open_table(paths.lake_dir, name) for name, kind in TABLE_KINDS.items()}
    held: dict[str, set[tuple[str, int]]] = {}

    def passed(segment: str, offset: int, kind: int) -> bool:
        worker = segment.split("/", 1)[0]
        if worker not in held:
            held[worker] = kept(quarantine, paths.journal_dir / worker)
        if (segment, offset) in held[worker]:
            return True
        if kind in tables:
            return (tables[FrameKind(kind)].transaction_version(marker_id(segment)) or 0) > offset
        return kind == FrameKind.RESPONSE  # its request was blanked, or removed with its segment

    return passed


def _forget_splits(paths: LakeSettings, questions: set[str]) -> int:
    """Take the questions that nobody else asked out of the book of splits; how many."""
    if not paths.datasets_dir.is_dir():
        return 0
    alone = sorted(questions - shared_words(paths.lake_dir, Words(questions)))
    return SplitStore(paths.datasets_dir).forget(question_keys(alone))


def _files(paths: LakeSettings, work: Work, words: Words, removal: Removal) -> None:
    adapters = {paths.adapters_dir / one for one in work.adapters}
    for finding in list(other_files(paths, words)):
        path = Path(finding.path)
        if path.parent in adapters and path.name != "manifest.json":
            path.unlink(missing_ok=True)  # it never serves again, so its hashes need not hold
        elif finding.how == "unreadable" or not clear(finding, words):
            removal.unknown_files.append(finding.path)
            continue
        removal.files.append(finding.path)


def prove(paths: LakeSettings, work: Work, removal: Removal) -> dict[str, Any]:
    """Search every byte; the record of it: how much was searched, for how many words, and where something was found."""
    started = time.monotonic()
    subject = work.subject
    words = subject.words(shared_with_others(paths, subject))
    tally = Tally()
    found: list[Finding] = []
    if words:
        found += search_tree(paths.data_dir, words, [paths.erasures_dir], tally)
        found += search_tree(paths.models_dir, words, (), tally)
        lake = paths.lake_dir
        if not isinstance(lake, Path) or not lake.absolute().is_relative_to(paths.data_dir.absolute()):
            found += search_lake(lake, words, tally)
    return {
        "files": tally.files,
        "bytes": tally.bytes,
        "words": len(words.words),
        "patterns": len(words.patterns),
        "ids_too_short": words.left_out,
        "shared": removal.shared,
        "datasets_left": len(dataset_folders(paths.datasets_dir)),
        "found": [{"file": one.path, "how": one.how} for one in found],
        "seconds": round(time.monotonic() - started, 2),
    }
