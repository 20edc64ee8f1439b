"""The bytes that a deleted row leaves in a Delta table: data files that no snapshot of now names, and the log.

Reads and writes the tables' folders, local or on S3. A commit's statistics quote the least and greatest id of a file,
and may quote what was deleted; both are taken out of the commit files and checkpoints, whose meaning stays.
Invariants: a file that the newest snapshot names stays; one that no commit ever named stays until it is an hour old,
since an append may be under way, unless the caller keeps everybody from appending to the table. Time travel to a
version before the erasure ends with it. Safe to repeat.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lake.erase_search import Words, search_buffer, search_file
from lake.files import write_bytes_atomic
from lake.location import LakeDir, Location
from lake.schemas.tables import TABLES
from lake.storage import LOG, file_system, listed, paths, read_file
from lake.tables import existing_table

_UNDER_WAY = timedelta(hours=1)


@dataclass(slots=True)
class Purge:
    """What went from the tables' folders; `waiting`: files that may belong to an append under way."""

    files: list[str] = field(default_factory=list[str])
    log_files: list[str] = field(default_factory=list[str])
    waiting: list[str] = field(default_factory=list[str])


def purge_tables(lake_dir: LakeDir, words: Words, now: datetime, settled: Collection[str] = ()) -> Purge:
    """Remove the former data files that hold a word, and take the words out of the logs. `now` is UTC; `settled`:
    tables that nobody appends to meanwhile.
    """
    purge = Purge()
    if not words:
        return purge
    for name in TABLES:
        table = existing_table(lake_dir, name)
        if table is not None:
            _purge_files(lake_dir / name, table, words, None if name in settled else now, purge)
            _purge_log(lake_dir / name, words, purge)
    return purge


def _purge_files(location: Location, table: DeltaTable, words: Words, now: datetime | None, purge: Purge) -> None:
    live = set(paths(table))
    former = table.vacuum(retention_hours=0, dry_run=True, enforce_retention_duration=False)
    removed = {unquote(path) for path in former}
    for info in listed(location):
        if info.path in live or info.path.startswith(f"{LOG}/") or not _holds(location, info.path, words):
            continue
        if info.path not in removed and _is_young(info, now):
            purge.waiting.append(f"{location.name}/{info.path}")
            continue
        file_system(location).delete_file(info.path)
        purge.files.append(f"{location.name}/{info.path}")


def _is_young(info: Any, now: datetime | None) -> bool:
    """Whether an append that is under way may have written it."""
    return now is not None and (info.mtime is None or now - info.mtime.astimezone(UTC) < _UNDER_WAY)


def _holds(location: Location, path: str, words: Words) -> bool:
    if isinstance(location, Path):
        return search_file(location / path, words) is not None
    return search_buffer(read_file(location, path), words) is not None


def _purge_log(location: Location, words: Words, purge: Purge) -> None:
    for info in listed(location, LOG):
        if not _holds(location, info.path, words):
            continue
        data = read_file(location, info.path)
        if info.path.endswith(".json"):
            data = without_words(data, words)
        elif info.path.endswith(".parquet"):
            data = checkpoint_without_words(data, words)
        else:
            continue
        _write(location, info.path, data)
        purge.log_files.append(f"{location.name}/{info.path}")


def _write(location: Location, path: str, data: bytes) -> None:
    if isinstance(location, Path):
        write_bytes_atomic(location / path, data)
        return
    with file_system(location).open_output_stream(path) as handle:
        handle.write(data)


def without_words(commit: bytes, words: Words) -> bytes:
    """A commit's lines; statistics and predicates with a word in them are reduced to what says nothing. Pure."""
    lines: list[bytes] = []
    for line in commit.splitlines():
        action: dict[str, Any] = orjson.loads(line)
        for kind in ("add", "remove"):
            stats = (action.get(kind) or {}).get("stats")
            if stats and words.is_in(stats.encode()):
                action[kind]["stats"] = _counts_only(stats)
        parameters = (action.get("commitInfo") or {}).get("operationParameters") or {}
        for name, value in parameters.items():
            if isinstance(value, str) and words.is_in(value.encode()):
                parameters[name] = "erased"
        lines.append(orjson.dumps(action))
    return b"\n".join(lines) + b"\n"


def _counts_only(stats: str) -> str:
    return orjson.dumps({"numRecords": orjson.loads(stats)["numRecords"]}).decode()


def checkpoint_without_words(data: bytes, words: Words) -> bytes:
    """A checkpoint whose statistics hold none of the words."""
    table = pq.read_table(pa.BufferReader(data))
    for kind in ("add", "remove"):
        if kind in table.schema.names and table.schema.field(kind).type.get_field_index("stats") >= 0:
            position = table.schema.get_field_index(kind)
            structs: Any = table.column(kind).combine_chunks()
            table = table.set_column(position, table.schema.field(kind), _without_stats(structs, words))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def _without_stats(structs: Any, words: Words) -> Any:
    kind = structs.type
    columns = [structs.field(position) for position in range(kind.num_fields)]
    at = kind.get_field_index("stats")
    stats = [
        _counts_only(one) if one is not None and words.is_in(one.encode()) else one for one in columns[at].to_pylist()
    ]
    columns[at] = pa.array(stats, kind.field(at).type)
    fields = [kind.field(position) for position in range(kind.num_fields)]
    return pa.StructArray.from_arrays(columns, fields=fields, mask=structs.is_null())
