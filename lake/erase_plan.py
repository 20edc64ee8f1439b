"""What of a request, a key or a session is kept here, and where: named before anything is touched.

Reads the journals, the quarantine folder, the tables, `data/datasets/`, the registry's log and, byte by byte, every
other file below `data/` and `models/` but the base models; writes nothing. `Reach.to_dict` holds places and counts,
no id and no text, so that it can be kept for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow.compute as pc

from lake.erase_journal import Spot, belongs, find_spots, payloads, quarantined
from lake.erase_search import Finding, Words, search_tree
from lake.erase_tables import QUESTION_COLUMNS, TEXT_COLUMNS, TableReach, find_rows, reach_of
from lake.erased_ids import id_hash
from lake.errors import UnknownSubjectError
from lake.journal.index import ID_FIELD
from lake.lineage_files import AdapterRef, RowRef, adapters_of, dataset_folders, rejects_of, rows_of
from lake.marks import TABLE_KINDS
from lake.rules.shingles import normalise_question
from lake.schemas.records import FrameKind
from lake.settings import LakeSettings

Kind = Literal["request", "key", "session"]
FIELD: dict[str, str] = {"key": "key_id", "session": "session_id"}
MIN_TEXT_BYTES = 24  # eight Hangul syllables: shorter texts are met by chance
_TEXTS = frozenset(column for table in TABLE_KINDS for column in TEXT_COLUMNS[table])  # records have the same fields


@dataclass(slots=True)
class Subject:
    """Whose data it is. `ids`: of its requests and of all that names them; `texts`: what it said and was told."""

    kind: Kind
    request_ids: set[str] = field(default_factory=set[str])
    ids: set[str] = field(default_factory=set[str])
    texts: set[str] = field(default_factory=set[str])
    questions: set[str] = field(default_factory=set[str])

    def words(self, shared: Iterable[str] = ()) -> Words:
        """What to search for: ids, and texts long enough to be nobody else's."""
        left = (self.ids | self.texts) - set(shared)
        left |= {normalise_question(question) for question in self.questions & left}  # as a book of splits has it
        return Words(word for word in left if word in self.ids or len(word.encode()) >= MIN_TEXT_BYTES)


@dataclass(slots=True)
class Reach:
    """Everything that the subject reached."""

    subject: Subject
    tables: list[TableReach] = field(default_factory=list[TableReach])
    journal: list[Spot] = field(default_factory=list[Spot])
    private: list[Spot] = field(default_factory=list[Spot])
    quarantine: list[Path] = field(default_factory=list[Path])
    rows: list[RowRef] = field(default_factory=list[RowRef])
    rejects: dict[str, int] = field(default_factory=dict[str, int])  # dataset version: lines
    adapters: list[AdapterRef] = field(default_factory=list[AdapterRef])
    ggufs: list[str] = field(default_factory=list[str])
    files: list[Finding] = field(default_factory=list[Finding])

    def __bool__(self) -> bool:
        return bool(self.tables or self.journal or self.private or self.quarantine or self.rows or self.rejects)

    @property
    def datasets(self) -> dict[str, int]:
        """Version: rows, of the versions that hold rows of the subject."""
        counts: dict[str, int] = {}
        for row in self.rows:
            counts[row.dataset] = counts.get(row.dataset, 0) + 1
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Places and counts."""
        return {
            "requests": len(self.subject.request_ids),
            "ids": len(self.subject.ids),
            "tables": [reach.to_dict() for reach in self.tables],
            "journal": [spot.to_dict() for spot in self.journal],
            "private_journal": [spot.to_dict() for spot in self.private],
            "quarantine": [f"{path.parent.name}/{path.stem}" for path in self.quarantine],
            "datasets": self.datasets,
            "dataset_rows": [{"dataset": row.dataset, "file": row.file, "row_id": row.row_id} for row in self.rows],
            "dataset_rejects": self.rejects,
            "adapters": [{"adapter": one.adapter_id, "dataset": one.dataset} for one in self.adapters],
            "ggufs": self.ggufs,
            "files": [{"file": finding.path, "how": finding.how} for finding in self.files],
        }


def find_subject(paths: LakeSettings, kind: Kind, value: str) -> Subject:
    """Its requests, wherever they are, and what names them. May be empty. Blocks: reads the journals whole."""
    subject = Subject(kind)
    journals = (paths.journal_dir, paths.private_journal_dir)
    if kind == "request":
        subject.request_ids.add(value)
        subject.ids.add(value)
    else:
        name = FIELD[kind]
        for root in journals:
            for frame_kind, payload in payloads(root):
                if payload.get(name) == value:
                    _own(subject, frame_kind, payload)
        for table in ("requests", "feedback"):
            if table == "requests" or kind == "key":
                reach = find_rows(paths.lake_dir, table, pc.field(name) == value)
                subject.ids |= reach.ids if reach else set()
                subject.request_ids |= reach.ids if reach and table == "requests" else set()
    _follow(subject, paths, journals)
    return subject


def _own(subject: Subject, frame_kind: int, payload: Mapping[str, Any]) -> None:
    key = payload.get(ID_FIELD[frame_kind])
    if isinstance(key, str) and key:
        subject.ids.add(key)
        if frame_kind == FrameKind.REQUEST:
            subject.request_ids.add(key)


def _follow(subject: Subject, paths: LakeSettings, journals: Iterable[Path]) -> None:
    """Add what names the ids (feedback, reviews, labels), and the texts of all of it."""
    known = -1
    while len(subject.ids) > known:
        known = len(subject.ids)
        ids = frozenset(subject.ids)
        for root in journals:
            for frame_kind, payload in payloads(root):
                if belongs(frame_kind, payload, ids):
                    _own(subject, frame_kind, payload)
                    _hear(subject, payload)
        for reach in reach_of(paths.lake_dir, ids):
            if reach.table not in ("rejects", "evaluations"):
                subject.ids |= reach.ids
            subject.texts |= reach.texts
            subject.questions |= reach.questions


def _hear(subject: Subject, payload: Mapping[str, Any]) -> None:
    subject.texts |= {text for name in _TEXTS if isinstance(text := payload.get(name), str) and text}
    subject.questions |= {text for name in QUESTION_COLUMNS if isinstance(text := payload.get(name), str) and text}


def find_reach(
    paths: LakeSettings, subject: Subject, words: Words, log: Callable[[str], None] = lambda _: None
) -> Reach:
    """Every place. Raises `DatasetError` or `SetupError` where something can't be read."""
    ids = frozenset(subject.ids)
    reach = Reach(subject)
    reach.tables = reach_of(paths.lake_dir, ids)
    reach.journal = find_spots(paths.journal_dir, ids, words, paths.data_dir / "quarantine")
    reach.private = find_spots(paths.private_journal_dir, ids, words)
    reach.quarantine = quarantined(paths.data_dir / "quarantine", reach.journal, words)
    for folder in dataset_folders(paths.datasets_dir):
        reach.rows += rows_of(folder, ids)
        if count := rejects_of(folder, ids):
            reach.rejects[folder.name] = count
    reach.adapters = adapters_of(paths.models_dir, sorted(reach.datasets))
    reach.ggufs = [one.adapter_id for one in reach.adapters if (paths.gguf_dir / one.adapter_id).is_dir()]
    log("searching the other files")
    reach.files = list(other_files(paths, words))
    return reach


def other_files(paths: LakeSettings, words: Words) -> Iterable[Finding]:
    """Files that are neither tables, journal, quarantine, nor a dataset: caches, reports, run files, logs, adapters."""
    if not words:
        return
    own = (paths.journal_dir, paths.private_journal_dir, paths.data_dir / "quarantine", paths.erasures_dir)
    lake = paths.lake_dir
    skip = [*own, *dataset_folders(paths.datasets_dir), *([lake] if isinstance(lake, Path) else [])]
    yield from search_tree(paths.data_dir, words, skip)
    yield from search_tree(paths.models_dir, words, [paths.base_dir])


def require_known(reach: Reach, kind: Kind) -> None:
    """Raises `UnknownSubjectError`, which says where it was looked for."""
    if not reach:
        raise UnknownSubjectError(
            f"Nothing of this {kind} is kept here: looked in the journal, the private journal, quarantine, the tables "
            "and the datasets. Check the id; requests of another installation are erased there."
        )


def subject_hash(kind: Kind, value: str) -> str:
    """What the table `erasures` holds in the place of the id that was asked for."""
    return id_hash(f"{kind}:{value}")
