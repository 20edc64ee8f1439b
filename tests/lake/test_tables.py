"""Delta tables: explicit schema, one version an append, lost races and unknown outcomes told apart."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, Schema

from lake import tables
from lake.errors import CommitConflictError, CommitUnknownError, IngestError, SetupError
from lake.maintenance import maintain_table
from lake.retention import RetentionSettings
from lake.schemas.tables import TABLES
from lake.tables import append, existing, open_table, relation, scan, table_version, to_arrow


def run_row(n: int, **changes: Any) -> dict[str, Any]:
    time = datetime(2026, 1, 1, 23, 30, tzinfo=UTC) + timedelta(hours=n)
    return {"timestamp": time, "run_id": f"r{n}", "stage": "ingest", "seconds": 1.5, "status": "ok"} | changes


@pytest.mark.parametrize("name", list(TABLES))
def test_every_table_is_created_with_its_schema(tmp_path: Path, name: str) -> None:
    table = open_table(tmp_path, name)
    assert table.metadata().partition_columns == ["date"]
    assert pa.schema(table.schema().to_arrow()).equals(pa.schema(Schema.from_arrow(TABLES[name]).to_arrow()))
    assert table_version(tmp_path, name) == 0
    assert scan(tmp_path, name).collect().columns == TABLES[name].names


def test_rows_come_back_through_polars_and_duckdb_at_each_version(tmp_path: Path) -> None:
    assert append(tmp_path, "runs", [run_row(0)]) == 1
    assert append(tmp_path, "runs", to_arrow("runs", [run_row(1), run_row(2)]), metadata={"why": "test"}) == 2
    assert scan(tmp_path, "runs").select(pl.len()).collect().item() == 3
    assert scan(tmp_path, "runs", version=1).collect()["run_id"].to_list() == ["r0"]
    with duckdb.connect() as connection:
        assert relation(connection, tmp_path, "runs").aggregate("count(*)").fetchall() == [(3,)]
        assert relation(connection, tmp_path, "runs", version=1).filter("date = '2026-01-01'").fetchall()
    dates = sorted(path.name for path in (tmp_path / "runs").glob("date=*"))
    assert dates == ["date=2026-01-01", "date=2026-01-02"]
    assert all(".zstd." in path.name for path in (tmp_path / "runs").glob("date=*/*.parquet"))
    assert DeltaTable(tmp_path / "runs").history(1)[0]["why"] == "test"


@pytest.mark.parametrize("folder", ["my lake", "호수", "x+y&z#1"])
def test_any_folder_name_will_do(tmp_path: Path, folder: str) -> None:
    lake = tmp_path / folder
    append(lake, "runs", [run_row(0)])
    append(lake, "runs", [run_row(0, run_id="r1")])
    assert scan(lake, "runs").filter(pl.col("run_id") == "r1").collect().height == 1
    assert scan(lake, "runs", version=1).collect().height == 1
    assert existing(open_table(lake, "runs"), "run_id", {"r0"}) == {"r0"}
    with duckdb.connect() as connection:
        assert relation(connection, lake, "runs").aggregate("count(*)").fetchall() == [(2,)]
    kind = RetentionSettings().model_copy(update={"vacuum_hours": 0, "compact_files": 2})
    done = maintain_table(lake, "runs", kind, {1: ["aa"]}, datetime.now(UTC))
    assert done is not None and done.kept_versions == {1: ["aa"]} and done.files_after == 1
    assert [path.name for path in tmp_path.iterdir()] == [folder]


def test_the_date_is_that_of_utc(tmp_path: Path) -> None:
    seoul = datetime(2026, 1, 2, 3, 0, tzinfo=timezone(timedelta(hours=9)))
    append(tmp_path, "runs", [run_row(0, timestamp=seoul)])
    row = scan(tmp_path, "runs").collect().to_dicts()[0]
    assert row["date"] == "2026-01-01"
    assert row["timestamp"] == datetime(2026, 1, 1, 18, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"surprise": 1}, "surprise"), ({"seconds": "long"}, "does not fit"), ({"stage": None}, "stage")],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(IngestError, match=message):
        append(tmp_path, "runs", [run_row(0, **change)])
    assert scan(tmp_path, "runs").collect().is_empty()


def test_data_with_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="columns"):
        append(tmp_path, "runs", pa.table({"run_id": ["x"]}))
    text = to_arrow("runs", [run_row(0)])
    broken = text.set_column(text.schema.get_field_index("seconds"), "seconds", pa.array(["long"]))
    with pytest.raises(IngestError, match="does not fit"):
        append(tmp_path, "runs", broken)


def test_an_append_on_an_old_snapshot_is_a_lost_race(tmp_path: Path) -> None:
    first, second = open_table(tmp_path, "runs"), open_table(tmp_path, "runs")
    assert append(tmp_path, "runs", [run_row(0)], table=first, txns={"app": 7}) == 1
    with pytest.raises(CommitConflictError):
        append(tmp_path, "runs", [run_row(1)], table=second, txns={"app": 9})
    fresh = open_table(tmp_path, "runs")
    assert (fresh.transaction_version("app"), fresh.count()) == (7, 1)


def test_a_table_created_by_many_at_once_is_created_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for attempt in range(10):
            versions = list(pool.map(lambda _, at=attempt: table_version(tmp_path / str(at), "runs"), range(4)))
            assert versions == [0] * 4


def test_transaction_versions_need_the_snapshot_they_were_read_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="snapshot"):
        append(tmp_path, "runs", [run_row(0)], txns={"app": 1})


def test_appends_without_a_snapshot_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        versions = list(pool.map(lambda n: append(tmp_path, "runs", [run_row(n)]), range(12)))
    assert sorted(versions) == list(range(1, 13))
    assert sorted(scan(tmp_path, "runs").collect()["run_id"]) == sorted(f"r{n}" for n in range(12))


def test_a_commit_that_landed_in_spite_of_an_error_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tables.write_deltalake

    def late_error(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise OSError(5, "the answer was lost")

    monkeypatch.setattr(tables, "write_deltalake", late_error)
    assert append(tmp_path, "runs", [run_row(0)]) == 1
    assert scan(tmp_path, "runs").collect().height == 1


def test_an_outcome_that_can_not_be_known_has_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = open_table(tmp_path, "runs")

    def fail(*args: Any, **kwargs: Any) -> None:
        (tmp_path / "runs").rename(tmp_path / "unmounted")
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tables, "write_deltalake", fail)
    with pytest.raises(CommitUnknownError, match="not known"):
        append(tmp_path, "runs", [run_row(0)], table=table)


def test_a_failure_that_wrote_nothing_is_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tables, "write_deltalake", fail)
    with pytest.raises(IngestError, match="free some space") as caught:
        append(tmp_path, "runs", [run_row(0)])
    assert type(caught.value) is IngestError


def test_a_nullable_column_is_added_and_any_other_change_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(tmp_path, "runs", [run_row(0)])
    wider = TABLES["runs"].append(pa.field("host", pa.string()))
    monkeypatch.setitem(TABLES, "runs", wider)
    append(tmp_path, "runs", [run_row(1, host="h")])
    assert scan(tmp_path, "runs").sort("run_id").collect()["host"].to_list() == [None, "h"]
    monkeypatch.setitem(TABLES, "runs", wider.remove(wider.get_field_index("host")))
    with pytest.raises(SetupError, match="host"):
        open_table(tmp_path, "runs")


def test_a_table_that_can_not_be_read_says_so(tmp_path: Path) -> None:
    append(tmp_path, "runs", [run_row(0)])
    (tmp_path / "runs/_delta_log/00000000000000000000.json").write_text("not a log")
    with pytest.raises(SetupError, match="can't be opened"):
        open_table(tmp_path, "runs")


def test_existing_finds_long_ids_that_differ_at_the_end(tmp_path: Path) -> None:
    ids = [f"{'x' * 150}{n}" for n in range(5)] + ["short"]
    append(tmp_path, "runs", [run_row(n, run_id=value) for n, value in enumerate(ids[::2])])
    table = open_table(tmp_path, "runs")
    assert existing(table, "run_id", set(ids)) == set(ids[::2])
    assert existing(table, "run_id", set()) == set()


def test_added_rows_is_what_the_log_says(tmp_path: Path) -> None:
    version = append(tmp_path, "runs", [run_row(0), run_row(1)])
    assert tables.added_rows(tmp_path, "runs", version) == 2
    log = tmp_path / f"runs/_delta_log/{version:020d}.json"
    assert json.loads(log.read_text().splitlines()[0])["commitInfo"]["operationMetrics"]["num_added_rows"] == 2
