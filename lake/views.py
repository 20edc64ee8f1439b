"""The lake for people with SQL or polars: every table as a DuckDB view, a DuckDB file that others attach, LazyFrames.

Reads `lake_dir`; writes nothing but the DuckDB file that it is asked for. Invariants: a view has this version's
columns whatever its table has; it shows one version of its table, also while others write. A DuckDB file names the
Parquet files of that version, so it needs no extension, and lasts until maintenance removes them (MULLE_VACUUM_HOURS
after they left the table): make it anew, or use `--delta`, which follows the table but needs DuckDB's extension.

    python -m lake.views                             what is there
    python -m lake.views "select model, count(*) from requests group by 1"
    python -m lake.views --file lake.duckdb          then: duckdb lake.duckdb
    python -m lake.views --sql [--delta]             the views as SQL
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
from deltalake import DeltaTable

from lake.errors import InputError, MulleError, SetupError, says
from lake.evolution import recorded_version
from lake.location import LakeDir, S3Location
from lake.schemas.tables import TABLES
from lake.settings import LakeSettings
from lake.storage import paths
from lake.tables import dataset, existing_table, scan
from lake.text import sql_text


def tables_there(lake_dir: LakeDir) -> dict[str, DeltaTable]:
    """The newest snapshot of each table that exists. Raises `SetupError` where one can't be read."""
    found = {name: existing_table(lake_dir, name) for name in TABLES}
    return {name: table for name, table in found.items() if table is not None}


def connect(lake_dir: LakeDir) -> duckdb.DuckDBPyConnection:
    """DuckDB in memory with a view of each table that exists, at its newest version now. Close it when done.

    Filters and columns are pushed down to the files, on S3 too (delta-rs reads, so DuckDB needs no extension).
    """
    connection = duckdb.connect()
    for name, table in tables_there(lake_dir).items():
        connection.register(name, dataset(lake_dir, name, table.version()))
    return connection


def frames(lake_dir: LakeDir) -> dict[str, pl.LazyFrame]:
    """A polars LazyFrame of each table that exists, at its newest version now."""
    return {name: scan(lake_dir, name, table.version()) for name, table in tables_there(lake_dir).items()}


def views_sql(lake_dir: LakeDir, *, delta: bool = False) -> str:
    """`CREATE VIEW` of each table that exists, for any DuckDB.

    With `delta` the views follow the tables through DuckDB's delta extension; without it they name the files of the
    newest version now. For a lake on S3 DuckDB wants its own credentials (`CREATE SECRET`): none are written here.
    """
    lines = ["INSTALL delta;", "LOAD delta;"] if delta else []
    if isinstance(lake_dir, S3Location):
        lines.append("INSTALL httpfs;")
        lines.append("LOAD httpfs;")
    for name, table in tables_there(lake_dir).items():
        source = f"delta_scan({sql_text(str(_absolute(lake_dir / name)))})" if delta else _files(lake_dir / name, table)
        columns = ", ".join(f'"{column}"' for column in TABLES[name].names)
        # The empty part brings in columns that no file has yet, with their types.
        empty = f"SELECT {_nulls(name)} WHERE false"
        body = f"SELECT * FROM {source} UNION ALL BY NAME {empty}" if source else empty
        lines.append(f"CREATE OR REPLACE VIEW {name} AS SELECT {columns} FROM ({body});")
    return "\n".join(lines) + "\n"


def _absolute(location: LakeDir) -> LakeDir:
    return location.resolve() if isinstance(location, Path) else location


def _files(location: LakeDir, table: DeltaTable) -> str:
    files = ", ".join(sql_text(f"{_absolute(location)}/{path}") for path in paths(table))
    options = "union_by_name = true, hive_partitioning = true, hive_types = {'date': VARCHAR}"
    return f"read_parquet([{files}], {options})" if files else ""


def _nulls(name: str) -> str:
    with duckdb.connect() as connection:
        empty = connection.from_arrow(TABLES[name].empty_table())
        types = zip(empty.columns, empty.types, strict=True)
        return ", ".join(f'NULL::{kind} AS "{column}"' for column, kind in types)


def write_file(lake_dir: LakeDir, path: Path) -> int:
    """A DuckDB file with the views, instead of the one that is there; how many. Raises `SetupError`."""
    sql = views_sql(lake_dir)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with duckdb.connect(str(temporary)) as connection:
            connection.execute(sql)
        temporary.replace(path)
    except (OSError, duckdb.Error) as error:
        raise SetupError(f"The DuckDB file {path} can't be written ({says(error)}).") from error
    finally:
        temporary.unlink(missing_ok=True)
    return sql.count("CREATE OR REPLACE VIEW")


def summary(lake_dir: LakeDir) -> list[dict[str, Any]]:
    """Name, Delta version, schema version, rows, files and columns of each table that exists."""
    return [
        {
            "table": name,
            "version": table.version(),
            "schema": recorded_version(table),
            "rows": table.count(),
            "files": len(table.file_uris()),
            "columns": len(TABLES[name].names),
        }
        for name, table in tables_there(lake_dir).items()
    ]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lake.views", description="The lake's tables as DuckDB views.")
    parser.add_argument("query", nargs="?", help="SQL over the views; without it: what is there")
    parser.add_argument("--file", type=Path, help="write a DuckDB file with the views")
    parser.add_argument("--sql", action="store_true", help="print the views as SQL")
    parser.add_argument("--delta", action="store_true", help="with --sql: views that follow their tables (extension)")
    return parser


def main(arguments: list[str]) -> int:
    options = make_parser().parse_args(arguments)
    try:
        lake_dir = LakeSettings().lake_dir
        if options.sql:
            sys.stdout.write(views_sql(lake_dir, delta=options.delta))
        elif options.file:
            print(f"{options.file}: {write_file(lake_dir, options.file)} views")
        else:
            print(_shown(lake_dir, options.query))
    except MulleError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _shown(lake_dir: LakeDir, query: str | None) -> str:
    if query is None:
        rows = summary(lake_dir)
        return (
            str(pl.DataFrame(rows)) if rows else f"There is no table at {lake_dir} yet: run `python -m flows.ingest`."
        )
    with connect(lake_dir) as connection:
        try:
            return str(connection.sql(query) or "done")
        except duckdb.Error as error:
            raise InputError(f"DuckDB refuses this query: {' '.join(str(error).split())[:300]}") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
