"""Import step: other people's logs → a worker directory of the journal, from where ingest takes them like our own.

Writes `data/journal/import-<pid>-<boot>/`, all of it or nothing (it is written in `data/journal/.staging/` and moved
when it is whole, so that no half of a record is ever taken for an aborted request), and what could not be mapped into
`data/quarantine/imports/<sha256>.jsonl` with the reason of each. Safe to kill and to repeat: ids follow from the
records, those that the lake has are not journalled again, and ingest drops the rest.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from flows.steps.stage import StageContext
from lake.errors import InputError
from lake.files import fsync_dir, require_free_disk, sha256_file
from lake.foreign import FieldMapping, Halves, load_mapping, map_record
from lake.foreign_files import Line, lines, log_files
from lake.foreign_values import UnmappedError, moment
from lake.journal.reader import is_worker_alive, list_workers
from lake.journal.writer import JournalWriter
from lake.progress import Progress
from lake.schemas.records import FrameKind
from lake.tables import existing, existing_table

PRESETS = Path(__file__).parents[2] / "configs" / "imports"
STAGING = ".staging"  # below the journal: the same file system, and no reader looks into hidden folders
_BATCH = 2_000  # records that are looked up in the lake at once


def run_import(stage: StageContext, place: str, mapping: str, default_time: str | None = None) -> dict[str, Any]:
    """Journal every record of a file or folder that can be mapped and is not in the lake yet.

    `mapping`: a preset's name or a TOML file. `default_time`: of records without one. Raises `InputError` where file or
    mapping can't be read, `JournalError` where the disk fails; then nothing was imported.
    """
    files, chosen = log_files(Path(place)), load_mapping(mapping, PRESETS)
    default = _default(default_time)
    journal = stage.lake.journal_dir
    staging = journal / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    require_free_disk(staging, sum(one.stat().st_size for one in files), "the import")
    _clear(staging)
    counts: Counter[str] = Counter()
    with _Unmapped(stage.lake.data_dir / "quarantine" / "imports", chosen.name) as unmapped:
        with JournalWriter(staging, role="import", mode="group") as writer:
            progress = stage.progress()
            halves = _mapped(files, chosen, default, unmapped, counts, progress)
            while batch := list(itertools.islice(halves, _BATCH)):
                _write(writer, stage, batch, counts)
        kept = unmapped.keep()
    if counts["imported"]:
        (staging / writer.directory.name).rename(journal / writer.directory.name)
        fsync_dir(journal)
    else:
        shutil.rmtree(writer.directory)
    return {
        "files": len(files),
        "lines": counts["lines"],
        "imported": counts["imported"],
        "known": counts["known"],
        "unmapped": dict(unmapped.reasons),
        "unmapped_in": None if kept is None else str(kept),
        "worker": writer.directory.name if counts["imported"] else None,
    }


def _default(text: str | None) -> datetime | None:
    try:
        return None if text is None else moment(text)
    except UnmappedError as error:
        raise InputError(f"--default-time {text} is no time: write it like 2026-01-31T00:00:00Z.") from error


def _clear(staging: Path) -> None:
    """What a killed import left; one that runs holds its lock."""
    for left in list_workers(staging):
        if not is_worker_alive(left):
            shutil.rmtree(left, ignore_errors=True)


def _mapped(
    files: Sequence[Path],
    mapping: FieldMapping,
    default: datetime | None,
    unmapped: _Unmapped,
    counts: Counter[str],
    progress: Progress,
) -> Iterator[Halves]:
    for number, file in enumerate(files, 1):
        for line in lines(file):
            counts["lines"] += 1
            progress.advance(note=f"file {number} of {len(files)}, {unmapped.reasons.total()} lines unmapped")
            if line.record is None:
                unmapped.add(line, line.reason, "")
                continue
            try:
                halves = map_record(line.record, mapping, default)
            except UnmappedError as error:
                unmapped.add(line, error.reason, str(error))
                continue
            yield halves


def _write(writer: JournalWriter, stage: StageContext, batch: Sequence[Halves], counts: Counter[str]) -> None:
    table = existing_table(stage.lake.lake_dir, "requests")
    ids = {halves.request.request_id for halves in batch}
    known = existing(table, "request_id", ids) if table is not None else set[str]()
    for halves in batch:
        if halves.request.request_id in known:
            counts["known"] += 1
            continue
        at = writer.append_blocking(FrameKind.REQUEST, halves.request.payload())
        writer.append_blocking(FrameKind.RESPONSE, replace(halves.response, request_seq=at.seq).payload())
        counts["imported"] += 1


class _Unmapped:
    """Lines that became no record, as JSONL with file, number, reason and the line itself; the same ones once."""

    def __init__(self, folder: Path, mapping: str) -> None:
        self.reasons: Counter[str] = Counter()
        self._folder, self._mapping = folder, mapping

    def __enter__(self) -> _Unmapped:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / f".{secrets.token_hex(8)}.tmp"
        self._handle = self._path.open("xb")
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()
        self._path.unlink(missing_ok=True)

    def add(self, line: Line, reason: str, detail: str) -> None:
        """Count and keep one."""
        self.reasons[reason] += 1
        held = line.raw.decode("utf-8", "backslashreplace") if isinstance(line.raw, bytes) else line.raw
        facts = {"file": line.file.name, "line": line.number, "mapping": self._mapping, "reason": reason}
        self._handle.write(orjson.dumps({**facts, "detail": detail, "raw": held}, default=str) + b"\n")

    def keep(self) -> Path | None:
        """Where they lie now, durable; None where there are none."""
        self._handle.flush()
        os.fsync(self._handle.fileno())
        if not self.reasons:
            return None
        path = self._folder / f"{sha256_file(self._path)[:16]}.jsonl"
        self._path.replace(path)
        fsync_dir(self._folder)
        return path
