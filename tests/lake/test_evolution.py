"""Schemas follow their versions: a former table is read and widened, a later one refused; layout of the files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, Schema, write_deltalake

from lake import evolution
from lake.errors import SetupError
from lake.schemas.tables import ADDED, FREE_TEXT, TABLES, schema_at, schema_version, statistics_columns
from lake.storage import actions
from lake.tables import append, dataset, existing, open_table, relation, scan, to_arrow
from tests.lake.test_tables import run_row

FORMER = sorted(ADDED)


def filled(field: pa.Field) -> Any:
    """A value of the field's type."""
    if pa.types.is_list(field.type):
        return [filled(field.type.value_field)]
    if pa.types.is_struct(field.type):
        return {inner.name: filled(inner) for inner in field.type}
    if pa.types.is_timestamp(field.type):
        return run_row(0)["timestamp"]
    if pa.types.is_boolean(field.type):
        return True
    return {"string": "t"}.get(str(field.type), 1)


def one_row(schema: pa.Schema, tag: str) -> pa.Table:
    row = {field.name: filled(field) for field in schema} | {"date": "2026-01-01"}
    key = next(name for name in schema.names if name.endswith("_id"))
    return pa.Table.from_pylist([row | {key: tag}], schema=schema)


def write_former(lake: Path, name: str) -> pa.Schema:
    """A table as version 1 wrote it: without later columns and without properties."""
    former = schema_at(name, 1)
    DeltaTable.create(lake / name, schema=Schema.from_arrow(former), partition_by=["date"])
    write_deltalake(lake / name, one_row(former, "old"), mode="append")
    return former


@pytest.mark.parametrize("name", FORMER)
def test_a_table_of_the_former_schema_is_read_with_nulls_and_then_widened(tmp_path: Path, name: str) -> None:
    former = write_former(tmp_path, name)
    added = [column for columns in ADDED[name].values() for column in columns]
    assert set(former.names) | set(added) == set(TABLES[name].names) and added
    key = next(column for column in former.names if column.endswith("_id"))

    read = scan(tmp_path, name, version=1).collect()  # the former version itself, before anything is written to it
    assert read.columns == TABLES[name].names
    assert read.select(added).null_count().row(0) == (1,) * len(added)
    assert dataset(tmp_path, name, version=1).to_table().select(added).to_pylist() == [dict.fromkeys(added)]
    with duckdb.connect() as connection:
        assert relation(connection, tmp_path, name, version=1).filter(f"{added[0]} is null").fetchall()

    append(tmp_path, name, one_row(TABLES[name], "new"))
    rows = {row[key]: row for row in scan(tmp_path, name).collect().to_dicts()}
    assert {rows["old"][column] for column in added if column != "categories"} == {None}
    assert all(rows["new"][column] is not None for column in added)
    assert existing(open_table(tmp_path, name), key, {"old", "new", "other"}) == {"old", "new"}
    assert evolution.recorded_version(DeltaTable(tmp_path / name)) == schema_version(name) > 1


@pytest.mark.parametrize("name", list(TABLES))
def test_the_schema_version_stands_in_the_table(tmp_path: Path, name: str) -> None:
    table = open_table(tmp_path, name)
    assert table.metadata().configuration["mulle.schemaVersion"] == str(schema_version(name))
    assert open_table(tmp_path, name).version() == table.version() == 0  # nothing is written again


# sha256 of the schemas that released versions wrote; a line is added with each new version and never changed.
RELEASED = {
    ("requests", 2): "59c8f303596e",
    ("reviews", 1): "3a1957fdf7f1",
    ("feedback", 2): "d71feec5cbfd",
    ("synthetic", 1): "a179fa482f24",
    ("rejects", 1): "fc75a8a1aa52",
    ("evaluations", 1): "12fd40918d0d",
    ("runs", 1): "5cf23ad849a2",
}


@pytest.mark.parametrize(("name", "version"), list(RELEASED))
def test_a_released_schema_is_never_changed(name: str, version: int) -> None:
    found = hashlib.sha256(str(schema_at(name, version)).encode()).hexdigest()[:12]
    assert found == RELEASED[name, version], f"name the columns that {name} gained in ADDED, under a new version"


def test_what_a_version_adds_is_named_and_nullable() -> None:
    for name, versions in ADDED.items():
        assert sorted(versions) == list(range(2, len(versions) + 2)), f"{name}: versions follow each other"
        for column in (column for columns in versions.values() for column in columns):
            assert TABLES[name].field(column).nullable, f"{name}.{column}"


def test_a_table_of_a_later_version_is_refused_for_writing(tmp_path: Path) -> None:
    open_table(tmp_path, "runs").alter.set_table_properties({"mulle.schemaVersion": "99"}, raise_if_not_exists=False)
    with pytest.raises(SetupError, match="version 99"):
        open_table(tmp_path, "runs")
    assert scan(tmp_path, "runs", version=1).collect().is_empty()


def test_a_reader_leaves_out_columns_that_it_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wider = TABLES["runs"].append(pa.field("host", pa.string()))
    with monkeypatch.context() as later:
        later.setitem(TABLES, "runs", wider)
        version = append(tmp_path, "runs", [run_row(0, host="h")])
    assert scan(tmp_path, "runs", version).collect().columns == TABLES["runs"].names
    assert dataset(tmp_path, "runs", version).to_table().schema.names == TABLES["runs"].names


def test_files_are_zstd_in_sensible_row_groups_with_statistics(tmp_path: Path) -> None:
    rows = [run_row(0, run_id=f"r{n:06d}") for n in range(40_000)]
    version = append(tmp_path, "runs", to_arrow("runs", rows))
    (added,) = actions(tmp_path / "runs", version, "add")
    facts = pq.read_metadata(tmp_path / "runs" / added["path"])
    assert [facts.row_group(n).num_rows for n in range(facts.num_row_groups)] == [32_768, 40_000 - 32_768]
    for group in (facts.row_group(n) for n in range(facts.num_row_groups)):
        for column in (group.column(n) for n in range(group.num_columns)):
            assert column.compression == "ZSTD"
            assert column.is_stats_set, column.path_in_schema
    names = {facts.row_group(0).column(n).path_in_schema: n for n in range(facts.num_columns)}
    assert facts.row_group(1).column(names["run_id"]).statistics.min == "r032768"
    assert set(orjson.loads(added["stats"])["minValues"]) == {"timestamp", "run_id", "stage", "seconds", "status"}


@pytest.mark.parametrize("name", list(TABLES))
def test_no_text_of_people_stands_in_a_log(tmp_path: Path, name: str) -> None:
    """The log outlives the rows that it sums up, so an erasure could not keep its promise."""
    row = one_row(TABLES[name], "an-id").to_pylist()[0]
    said = dict.fromkeys(FREE_TEXT & set(TABLES[name].names), "나는 비밀")
    version = append(tmp_path, name, [row | said])
    log = (tmp_path / name / f"_delta_log/{version:020d}.json").read_text("utf-8")
    assert "an-id" in log and "비밀" not in log
    assert set(statistics_columns(name)) <= set(TABLES[name].names)


def test_a_checkpoint_torn_by_a_power_cut_is_put_aside(tmp_path: Path) -> None:
    for n in range(101):
        append(tmp_path, "runs", [run_row(0, run_id=f"r{n}")], metadata={"n": str(n)})
    (checkpoint,) = (tmp_path / "runs/_delta_log").glob("*.checkpoint.parquet")
    os.truncate(checkpoint, 10)
    assert scan(tmp_path, "runs").collect().height == 101
    assert not checkpoint.exists() and list(checkpoint.parent.glob(".*.broken"))


def test_a_torn_checkpoint_without_its_commits_stays(tmp_path: Path) -> None:
    append(tmp_path, "runs", [run_row(0)])
    open_table(tmp_path, "runs").create_checkpoint()
    log = tmp_path / "runs/_delta_log"
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    os.truncate(checkpoint, 10)
    (log / "00000000000000000000.json").unlink()
    with pytest.raises(SetupError, match="can't be opened"):
        open_table(tmp_path, "runs")
    assert checkpoint.exists()
