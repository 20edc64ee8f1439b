"""The tables as DuckDB views and polars frames, for people and programs that know nothing of Mulle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable, Schema, write_deltalake

from lake import views
from lake.errors import SetupError
from lake.schemas.tables import TABLES, schema_at
from lake.tables import append, open_table
from tests.lake.test_evolution import one_row
from tests.lake.test_tables import run_row


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """`runs` with two days, an empty `rejects`, `feedback` as a former version wrote it, in a folder with odd signs."""
    folder = tmp_path / "it's 호수"
    for n in range(3):
        append(folder, "runs", [run_row(n)])
    open_table(folder, "rejects")
    DeltaTable.create(folder / "feedback", schema=Schema.from_arrow(schema_at("feedback", 1)), partition_by=["date"])
    write_deltalake(folder / "feedback", one_row(schema_at("feedback", 1), "f1"), mode="append")
    append(folder, "requests", one_row(TABLES["requests"], "q1"))
    return folder


def test_every_table_that_exists_is_a_view_at_one_version(lake: Path) -> None:
    with views.connect(lake) as connection:
        append(lake, "runs", [run_row(9)])
        assert connection.sql("select count(*), max(date) from runs").fetchall() == [(3, "2026-01-02")]
        assert connection.sql("select feedback_id, key_id from feedback").fetchall() == [("f1", None)]
        assert connection.sql("select count(*) from rejects").fetchall() == [(0,)]
        assert connection.sql("select retrieved_items[1].name from requests").fetchall() == [("t",)]


def test_polars_frames(lake: Path) -> None:
    found = views.frames(lake)
    assert set(found) == {"runs", "rejects", "feedback", "requests"}
    assert found["runs"].collect().height == 3
    assert {name: frame.collect_schema().names() for name, frame in found.items()} == {
        name: TABLES[name].names for name in found
    }


def test_a_duckdb_file_is_read_by_a_duckdb_that_knows_nothing_else(lake: Path, tmp_path: Path) -> None:
    file = tmp_path / "lake.duckdb"
    assert views.write_file(lake, file) == 4
    program = (
        "import sys, duckdb; c = duckdb.connect(sys.argv[1], read_only=True);"
        "print(c.sql('select count(*), min(date), max(date) from runs').fetchall(),"
        "c.sql('select feedback_id, key_id from feedback').fetchall(), c.sql('select * from rejects').fetchall(),"
        "c.sql('select retrieved_items[1].name from requests').fetchall())"
    )
    command = [sys.executable, "-I", "-c", program, str(file)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert shown.strip() == "[(3, '2026-01-01', '2026-01-02')] [('f1', None)] [] [('t',)]"
    append(lake, "runs", [run_row(9)])
    assert views.write_file(lake, file) == 4, "made anew over the old one"
    with duckdb.connect(str(file), read_only=True) as connection:
        assert connection.sql("select count(*) from runs").fetchall() == [(4,)]
        types = {name: kind for name, kind, *_ in connection.sql("describe runs").fetchall()}
        assert types["timestamp"] == "TIMESTAMP WITH TIME ZONE" and list(types) == TABLES["runs"].names
        plan = str(connection.sql("explain select run_id from runs where date = '2026-01-01'").fetchall())
        assert "2/" in plan or "File Filters" in plan, "a day is read alone"


def test_sql_for_the_delta_extension_names_folders(lake: Path) -> None:
    sql = views.views_sql(lake, delta=True)
    assert sql.startswith("INSTALL delta;\nLOAD delta;\n")
    escaped = str(lake).replace("'", "''")
    assert f"delta_scan('{escaped}/runs')" in sql and "read_parquet" not in sql


def test_a_file_that_can_not_be_written_is_one_line(lake: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="can't be written"):
        views.write_file(lake, tmp_path / "missing/lake.duckdb")


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        ([], 0, "feedback"),
        (["select count(*) as n from runs"], 0, "3"),
        (["--sql"], 0, "CREATE OR REPLACE VIEW runs"),
        (["--file", "lake.duckdb"], 0, "4 views"),
        (["select nothing"], 65, "DuckDB refuses"),
    ],
)
def test_the_command(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: int, shown: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("MULLE_LAKE_URI", str(lake))
    monkeypatch.chdir(tmp_path)
    assert views.main(arguments) == code
    said = capsys.readouterr()
    assert shown in said.out + said.err


def test_an_empty_lake_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MULLE_LAKE_URI", str(tmp_path / "none"))
    assert views.main([]) == 0 and "flows.ingest" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
