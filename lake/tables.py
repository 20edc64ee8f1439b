"""The Delta tables below `data/lake/<name>`: created with an explicit schema, appended to, read at a version.

Reads and writes `lake_dir`. Invariants: nothing is inferred, a row with an unknown column is refused; an
append is durable on return; a lost race (`CommitConflictError`: nothing was written, read again and decide)
is never mixed up with an unknown outcome (`CommitUnknownError`: it may have been written).
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import duckdb
import orjson
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import (
    CommitProperties,
    DeltaTable,
    Field,
    Schema,
    Transaction,
    WriterProperties,
    write_deltalake,
)
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError, TableNotFoundError
from ulid import ULID

from lake.errors import CommitConflictError, CommitUnknownError, IngestError, SetupError
from lake.files import fsync_dir
from lake.schemas.tables import TABLES

PARTITION_COLUMN = "date"
_COMMIT_KEY = "mulleCommit"  # in the commit's metadata: tells our commit from another's when an error hides it
_ZSTD = WriterProperties(compression="ZSTD", compression_level=3)
_OPEN_TRIES = 20
_APPEND_TRIES = 20


def open_table(lake_dir: Path, name: str) -> DeltaTable:
    """The newest snapshot; creates the table, and adds nullable columns that the schema gained. Safe to
    retry.

    Raises `SetupError` where the table on disk is not one that this version can write.
    """
    path, schema = lake_dir / name, TABLES[name]
    error: Exception | None = None
    for _ in range(_OPEN_TRIES):
        try:
            if not DeltaTable.is_deltatable(str(path)):
                path.mkdir(parents=True, exist_ok=True)
                # No retries: the loser of a race would commit a second table definition as version 1 (measured).
                DeltaTable.create(
                    path,
                    schema=Schema.from_arrow(schema),
                    mode="ignore",
                    partition_by=[PARTITION_COLUMN],
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
            table = DeltaTable(path)
            if _added(table, schema, path):
                continue
            return table
        except (CommitFailedError, TableNotFoundError) as raced:  # another process creates or extends it
            error = raced
        except (OSError, DeltaError) as broken:
            raise SetupError(f"The table at {path} can't be opened ({_short(broken)}): check the disk.") from broken
    raise SetupError(f"The table at {path} can't be created ({_short(error)}): check the disk.") from error


def _added(table: DeltaTable, schema: pa.Schema, path: Path) -> bool:
    """Add what the table lacks; True where something was added."""
    want = pa.schema(Schema.from_arrow(schema).to_arrow())
    have = pa.schema(table.schema().to_arrow())
    missing = [field for field in want if field.name not in have.names]
    wrong = [field.name for field in want if field.name in have.names and have.field(field.name).type != field.type]
    wrong += [field.name for field in missing if not field.nullable]
    wrong += [name for name in have.names if name not in want.names]
    if wrong:
        raise SetupError(
            f"The table at {path} has other columns than this version writes ({', '.join(sorted(wrong))}): "
            "use the version of Mulle that wrote it, or move the folder away.",
            columns=wrong,
        )
    if missing:
        fields = {field.name: field for field in Schema.from_arrow(schema).fields}
        table.alter.add_columns([cast("Field", fields[field.name]) for field in missing])
    return bool(missing)


def to_arrow(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as the table's Arrow schema; `date` follows from `timestamp` (UTC) where it is left out.

    Raises `IngestError` for an unknown or missing column or a value of another type.
    """
    schema = TABLES[name]
    known = set(schema.names)
    full: list[dict[str, Any]] = []
    for row in rows:
        if unknown := row.keys() - known:
            raise IngestError(f"The table {name} has no column {', '.join(sorted(unknown))}: fix the caller.")
        time = row.get("timestamp")
        if PARTITION_COLUMN not in row and isinstance(time, datetime):
            row = {**row, PARTITION_COLUMN: time.astimezone(UTC).date().isoformat()}
        full.append(dict(row))
    try:
        data = pa.Table.from_pylist(full, schema=schema)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise IngestError(f"A row does not fit the table {name} ({_short(error)}): fix the caller.") from error
    _require_values(name, data)
    return data


def _require_values(name: str, data: pa.Table) -> None:
    empty = [field.name for field in TABLES[name] if not field.nullable and data.column(field.name).null_count]
    if empty:
        raise IngestError(f"A row of the table {name} has no value for {', '.join(empty)}: fix the caller.")


def append(
    lake_dir: Path,
    name: str,
    rows: Sequence[Mapping[str, Any]] | pa.Table,
    *,
    table: DeltaTable | None = None,
    txns: Mapping[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> int:
    """Append in one commit; the version it made.

    With `table` (a snapshot from `open_table`) the append holds only if nobody committed since that snapshot:
    else `CommitConflictError`, nothing was written. Without it, it goes after whatever others append. `txns`
    sets Delta's transaction versions in the same commit (only with `table`, else they prove nothing).
    `CommitUnknownError`: look before you retry.
    """
    schema = TABLES[name]
    if isinstance(rows, pa.Table):
        given: Any = rows  # pyarrow has no type stubs
        if set(given.schema.names) != set(schema.names):
            raise IngestError(f"The data has other columns than the table {name}: fix the caller.")
        try:
            data = given.select(schema.names).cast(schema)
        except pa.ArrowException as error:
            raise IngestError(f"The data does not fit the table {name} ({_short(error)}): fix the caller.") from error
        _require_values(name, data)
    else:
        data = to_arrow(name, rows)
    if table is not None:
        return _commit(lake_dir, name, data, table, txns, metadata, retries=0)
    if txns:
        raise ValueError("transaction versions are only safe on the snapshot they were read from: pass `table`")
    for left in reversed(range(_APPEND_TRIES)):  # a blind append means the same on any snapshot
        try:
            return _commit(lake_dir, name, data, open_table(lake_dir, name), None, metadata, retries=None)
        except CommitConflictError:
            if not left:
                raise
            time.sleep(random.uniform(0.01, 0.1))
    raise AssertionError("unreachable")


def _commit(
    lake_dir: Path,
    name: str,
    data: pa.Table,
    snapshot: DeltaTable,
    txns: Mapping[str, int] | None,
    metadata: Mapping[str, str] | None,
    retries: int | None,
) -> int:
    """One commit; with `retries` 0 on `snapshot` alone, else Delta itself moves it past other appends."""
    base, commit_id = snapshot.version(), str(ULID())
    properties = CommitProperties(
        custom_metadata={**(metadata or {}), _COMMIT_KEY: commit_id},
        max_commit_retries=retries,
        app_transactions=[Transaction(app, version) for app, version in (txns or {}).items()] or None,
    )
    try:
        write_deltalake(snapshot, data, mode="append", writer_properties=_ZSTD, commit_properties=properties)
    except SchemaMismatchError as error:
        raise IngestError(f"The data does not fit the table {name} ({_short(error)}): fix the caller.") from error
    except (DeltaError, OSError) as error:
        version = _resolve(lake_dir / name, name, base, commit_id, error)
    else:
        version = snapshot.version()
    _make_durable(lake_dir / name, version)
    return version


def _resolve(path: Path, name: str, base: int, commit_id: str, error: Exception) -> int:
    """The version of our commit where it stands in spite of `error`; else raises what happened."""
    try:
        newest = DeltaTable(path).version()
        for version in range(base + 1, newest + 1):
            if commit_id in _log_file(path, version).read_text("utf-8"):
                return version
    except (DeltaError, OSError) as unreadable:
        raise CommitUnknownError(
            f"It is not known whether rows reached the table {name} ({_short(error)}; reading back: "
            f"{_short(unreadable)}): check the disk, then run it again.",
            table=name,
        ) from error
    if newest > base:
        raise CommitConflictError(
            f"Another process wrote the table {name} first; nothing was written: run it again.", table=name
        ) from error
    raise IngestError(
        f"The table {name} can't be written ({_short(error)}): free some space or check the disk, then run it again.",
        table=name,
    ) from error


def _log_file(path: Path, version: int) -> Path:
    return path / "_delta_log" / f"{version:020d}.json"


def _make_durable(path: Path, version: int) -> None:
    """fsync what a commit added: Delta's local store renames into place but never syncs (measured)."""
    log = _log_file(path, version)
    folders = {path, log.parent}
    try:
        for line in log.read_bytes().splitlines():
            if added := orjson.loads(line).get("add"):
                file = path / unquote(added["path"])
                folders.add(file.parent)
                _fsync(file)
        _fsync(log)
        for folder in folders:
            fsync_dir(folder)
    except OSError as error:
        raise CommitUnknownError(
            f"Version {version} of {path} is written but may not survive a power cut ({_short(error)}): "
            "check the disk, then run it again.",
            table=path.name,
        ) from error


def _fsync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def added_rows(lake_dir: Path, name: str, version: int) -> int:
    """Rows that the commit of `version` added, as Delta's log counts them."""
    for line in _log_file(lake_dir / name, version).read_bytes().splitlines():
        if info := orjson.loads(line).get("commitInfo"):
            return int(info["operationMetrics"]["num_added_rows"])
    raise IngestError(f"Version {version} of the table {name} has no commit info: check the disk.")


def existing(table: DeltaTable, column: str, values: set[str]) -> set[str]:
    """Those of `values` that the snapshot holds in `column`; files whose statistics exclude them are not
    read.
    """
    if not values:
        return set()
    dataset = table.to_pyarrow_dataset()
    found = dataset.to_table(columns=[column], filter=pc.field(column).isin(pa.array(sorted(values))))
    return set(found.column(column).to_pylist())


def table_version(lake_dir: Path, name: str) -> int:
    """The newest version; creates the table where there is none."""
    return open_table(lake_dir, name).version()


def scan(lake_dir: Path, name: str, version: int | None = None) -> pl.LazyFrame:
    """The table as a polars LazyFrame at a version (default: the newest)."""
    if version is None:
        version = table_version(lake_dir, name)
    return pl.scan_delta(str(lake_dir / name), version=version)


def relation(
    connection: duckdb.DuckDBPyConnection, lake_dir: Path, name: str, version: int | None = None
) -> duckdb.DuckDBPyRelation:
    """The table as a DuckDB relation of `connection` at a version; filters and columns are pushed down."""
    if version is None:
        version = table_version(lake_dir, name)
    dataset = DeltaTable(lake_dir / name, version=version).to_pyarrow_dataset()
    return connection.from_arrow(dataset)


def _short(error: Exception | None) -> str:
    return " ".join(str(error).split())[:200]
