"""The Delta tables of the lake, `<lake>/<name>`: created with an explicit schema, appended to, read at a version.

Reads and writes `lake_dir`, a local folder or a place on S3. Invariants: nothing is inferred, a row with an
unknown column is refused; what is read has this version's columns whatever the table has (absent ones are null);
an append is durable on return; a lost race (`CommitConflictError`: nothing was written, read again and decide)
is never mixed up with an unknown outcome (`CommitUnknownError`: it may have been written).
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError, TableNotFoundError
from ulid import ULID

from lake.errors import CommitConflictError, CommitUnknownError, IngestError, SetupError, says
from lake.evolution import HOOKS, PARTITION_COLUMN, create, mend, widen
from lake.location import LakeDir, Location
from lake.schemas.tables import TABLES
from lake.storage import actions, load, make_durable, polars_options, read_commit

_COMMIT_KEY = "mulleCommit"  # in the commit's metadata: tells our commit from another's when an error hides it
# A row of requests is some 5 KB of text: a row group is about 150 MB of it, and its statistics skip by request id.
WRITER = WriterProperties(compression="ZSTD", compression_level=3, max_row_group_size=32_768)
_OPEN_TRIES = 20
_APPEND_TRIES = 20


def open_table(lake_dir: LakeDir, name: str) -> DeltaTable:
    """The newest snapshot; creates the table, and adds nullable columns that the schema gained. Safe to
    retry.

    Raises `SetupError` where the table is not one that this version can write, or can't be reached.
    """
    location, error = lake_dir / name, None
    mended = False
    for _ in range(_OPEN_TRIES):
        try:
            table = load(location)
            if not widen(table, name, location):
                return table
        except TableNotFoundError as missing:
            error = missing
            _create(location, name)
        except CommitFailedError as raced:  # another process widens it
            error = raced
        except (OSError, DeltaError) as broken:
            if not mended and mend(location):
                mended = True
                continue
            raise SetupError(f"The table at {location} can't be opened ({says(broken)}): {_CHECK}.") from broken
    raise SetupError(f"The table at {location} can't be created ({says(error)}): {_CHECK}.") from error


_CHECK = "check the disk, or the address and keys of the S3 server"


def _create(location: Location, name: str) -> None:
    try:
        create(location, name)
    except (CommitFailedError, TableNotFoundError):  # another process was first
        pass
    except (OSError, DeltaError) as broken:
        raise SetupError(f"The table at {location} can't be created ({says(broken)}): {_CHECK}.") from broken


def existing_table(lake_dir: LakeDir, name: str, version: int | None = None) -> DeltaTable | None:
    """The table as it is, for reading; None where there is none yet. Writes nothing.

    Raises `SetupError` where it can't be read, also where that version is gone.
    """
    location = lake_dir / name
    try:
        return load(location, version)
    except TableNotFoundError:
        return None
    except (OSError, DeltaError) as broken:
        at = "" if version is None else f" at version {version}"
        raise SetupError(f"The table at {location} can't be read{at} ({says(broken)}): {_CHECK}.") from broken


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
        raise IngestError(f"A row does not fit the table {name} ({says(error)}): fix the caller.") from error
    _require_values(name, data)
    return data


def _require_values(name: str, data: pa.Table) -> None:
    empty = [field.name for field in TABLES[name] if not field.nullable and data.column(field.name).null_count]
    if empty:
        raise IngestError(f"A row of the table {name} has no value for {', '.join(empty)}: fix the caller.")


def append(
    lake_dir: LakeDir,
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
            raise IngestError(f"The data does not fit the table {name} ({says(error)}): fix the caller.") from error
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
    lake_dir: LakeDir,
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
        write_deltalake(
            snapshot,
            data,
            mode="append",
            writer_properties=WRITER,
            commit_properties=properties,
            post_commithook_properties=HOOKS,
        )
    except SchemaMismatchError as error:
        raise IngestError(f"The data does not fit the table {name} ({says(error)}): fix the caller.") from error
    except (DeltaError, OSError) as error:
        version = _resolve(lake_dir / name, name, base, commit_id, error)
    else:
        version = snapshot.version()
    _make_durable(lake_dir / name, version)
    return version


def _resolve(location: Location, name: str, base: int, commit_id: str, error: Exception) -> int:
    """The version of our commit where it stands in spite of `error`; else raises what happened."""
    try:
        newest = load(location).version()
        for version in range(base + 1, newest + 1):
            if commit_id.encode() in read_commit(location, version):
                return version
    except (DeltaError, OSError) as unreadable:
        raise CommitUnknownError(
            f"It is not known whether rows reached the table {name} ({says(error)}; reading back: "
            f"{says(unreadable)}): {_CHECK}, then run it again.",
            table=name,
        ) from error
    if newest > base:
        raise CommitConflictError(
            f"Another process wrote the table {name} first; nothing was written: run it again.", table=name
        ) from error
    raise IngestError(
        f"The table {name} can't be written ({says(error)}): free some space or {_CHECK}, then run it again.",
        table=name,
    ) from error


def _make_durable(location: Location, version: int) -> None:
    try:
        make_durable(location, version)
    except OSError as error:
        raise CommitUnknownError(
            f"Version {version} of {location} is written but may not survive a power cut ({says(error)}): "
            "check the disk, then run it again.",
            table=location.name,
        ) from error


def added_rows(lake_dir: LakeDir, name: str, version: int) -> int:
    """Rows that the commit of `version` added, as Delta's log counts them."""
    for info in actions(lake_dir / name, version, "commitInfo"):
        return int(info["operationMetrics"]["num_added_rows"])
    raise IngestError(f"Version {version} of the table {name} has no commit info: check the disk.")


def existing(table: DeltaTable, column: str, values: set[str]) -> set[str]:
    """Those of `values` that the snapshot holds in `column`; files whose statistics exclude them are not
    read.
    """
    if not values:
        return set()
    found = read_columns(table, [column], pc.field(column).isin(pa.array(sorted(values))))
    return set(found.column(column).to_pylist())


def read_columns(table: DeltaTable, columns: Any, only: pc.Expression | None = None) -> pa.Table:
    """Columns (names, or expressions by name) of a snapshot, of the rows that `only` takes. Raises `SetupError`."""
    try:
        return table.to_pyarrow_dataset().to_table(columns=columns, filter=only)
    except (OSError, ValueError, pa.ArrowException, DeltaError) as error:
        raise SetupError(
            f"A data file of the table at {table.table_uri} can't be read ({says(error)}): check the disk, and put "
            "the file back from a copy; nothing was written."
        ) from error


def table_version(lake_dir: LakeDir, name: str) -> int:
    """The newest version; creates the table where there is none."""
    return open_table(lake_dir, name).version()


def scan(lake_dir: LakeDir, name: str, version: int | None = None) -> pl.LazyFrame:
    """The table as a polars LazyFrame at a version (default: the newest), with this version's columns."""
    table = _table(lake_dir, name, version)
    # polars takes delta-rs's URLs for file names: it misses a local folder whose name is another as a URL.
    as_url = isinstance(lake_dir, Path) and quote(str(lake_dir.resolve())) != str(lake_dir.resolve())
    frame = pl.scan_delta(table, storage_options=polars_options(lake_dir / name), use_pyarrow=as_url)
    have = {field.name for field in table.schema().fields}
    wanted = pl.DataFrame(TABLES[name].empty_table()).schema
    return frame.select(
        pl.col(column) if column in have else pl.lit(None, dtype).alias(column) for column, dtype in wanted.items()
    )


def dataset(lake_dir: LakeDir, name: str, version: int | None = None) -> Any:
    """The table as a pyarrow dataset at a version (default: the newest), with this version's columns."""
    found: Any = _table(lake_dir, name, version).to_pyarrow_dataset()
    return found.replace_schema(TABLES[name])


def relation(
    connection: duckdb.DuckDBPyConnection, lake_dir: LakeDir, name: str, version: int | None = None
) -> duckdb.DuckDBPyRelation:
    """The table as a DuckDB relation of `connection` at a version; filters and columns are pushed down."""
    return connection.from_arrow(dataset(lake_dir, name, version))


def _table(lake_dir: LakeDir, name: str, version: int | None) -> DeltaTable:
    if version is None:
        return open_table(lake_dir, name)
    table = existing_table(lake_dir, name, version)
    if table is None:
        raise SetupError(f"There is no table at {lake_dir / name}: run the flow that writes it first.")
    return table
