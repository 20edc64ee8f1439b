"""The lake on S3, against a real server on loopback: commits, conflicts, lost answers, ingest, readers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from pydantic import SecretStr
from ulid import ULID

from lake import tables
from lake.errors import CommitConflictError, CommitUnknownError, SetupError
from lake.ingest import ingest
from lake.journal.writer import JournalWriter
from lake.location import S3Location
from lake.lookup import find_request
from lake.maintenance import maintain_table
from lake.retention import RetentionSettings
from lake.schemas.records import FrameKind
from lake.settings import LakeSettings
from lake.storage import sizes
from lake.tables import added_rows, append, existing, open_table, relation, scan, table_version
from tests.lake.ingest_kit import NOW, ROOT, ids, put, request, review, rows, serve
from tests.lake.s3_server import client, s3_server, settings
from tests.lake.test_tables import run_row


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def paths(tmp_path: Path, url: str) -> LakeSettings:
    bucket = f"b-{ULID()}".lower()
    client(url).create_bucket(Bucket=bucket)
    return settings(tmp_path, url, bucket)


def test_rows_come_back_through_polars_and_duckdb_at_each_version(paths: LakeSettings) -> None:
    lake = paths.lake_dir
    assert tables.existing_table(lake, "runs") is None
    assert append(lake, "runs", [run_row(0)]) == 1
    assert append(lake, "runs", [run_row(1), run_row(2)]) == 2
    assert added_rows(lake, "runs", 2) == 2
    assert scan(lake, "runs").collect().height == 3
    assert scan(lake, "runs", version=1).select("run_id").collect().to_series().to_list() == ["r0"]
    assert scan(lake, "runs").filter(pl.col("date") == "2026-01-01").collect()["run_id"].to_list() == ["r0"]
    with duckdb.connect() as connection:
        assert relation(connection, lake, "runs").aggregate("count(*)").fetchall() == [(3,)]
        assert relation(connection, lake, "runs", version=1).aggregate("count(*)").fetchall() == [(1,)]
    assert existing(open_table(lake, "runs"), "run_id", {"r1", "r9"}) == {"r1"}
    names = sizes(lake / "runs")
    assert "_delta_log/00000000000000000002.json" in names and all(size > 0 for size in names.values())
    assert sorted({name.split("/")[0] for name in names}) == ["_delta_log", "date=2026-01-01", "date=2026-01-02"]


def test_the_second_of_two_writers_on_one_snapshot_loses(paths: LakeSettings) -> None:
    lake = paths.lake_dir
    first, second = open_table(lake, "runs"), open_table(lake, "runs")
    assert append(lake, "runs", [run_row(0)], table=first, txns={"app": 7}) == 1
    with pytest.raises(CommitConflictError):
        append(lake, "runs", [run_row(1)], table=second, txns={"app": 9})
    fresh = open_table(lake, "runs")
    assert (fresh.transaction_version("app"), fresh.count()) == (7, 1)


def test_a_commit_whose_answer_was_lost_is_found(paths: LakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tables.write_deltalake

    def late_error(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        raise OSError(5, "the answer was lost")

    monkeypatch.setattr(tables, "write_deltalake", late_error)
    assert append(paths.lake_dir, "runs", [run_row(0)]) == 1
    assert scan(paths.lake_dir, "runs").collect().height == 1


def test_journal_to_s3_each_record_once_whatever_is_run_again(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        served = serve(writer, 5)
        put(writer, FrameKind.REVIEW, review(1))
    assert ingest(paths, NOW).rows_added == {"requests": 5, "reviews": 1, "feedback": 0}
    versions = {name: table_version(paths.lake_dir, name) for name in ("requests", "reviews", "feedback")}
    again = ingest(paths, NOW)
    assert again.rows_added == {"requests": 0, "reviews": 0, "feedback": 0} and again.total.closes
    assert versions == again.versions
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        served += serve(writer, 3)
    assert ingest(paths, NOW).rows_added["requests"] == 3
    assert ids(paths) == sorted(served)
    assert not (paths.data_dir / "lake").exists()


def test_a_request_is_looked_up_on_s3(paths: LakeSettings) -> None:
    rid, now = str(ULID()), datetime.now(UTC)
    assert find_request(paths, rid) is None  # there is no table yet, and a look makes none
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        put(writer, FrameKind.REQUEST, request(rid, timestamp=now.isoformat()))
    ingest(paths, now)
    found = find_request(paths, rid)
    assert found is not None and found.where == ["journal", "lake"]


INGESTER = """
import sys
from pathlib import Path
from lake.ingest import ingest
from tests.lake.ingest_kit import NOW
from tests.lake.s3_server import settings
ingest(settings(Path(sys.argv[1]), sys.argv[2], sys.argv[3]), NOW)
"""


def test_ingesters_at_the_same_time_make_one_table(paths: LakeSettings, url: str) -> None:
    served: list[str] = []
    for _ in range(6):
        with JournalWriter(paths.journal_dir, role="gateway") as writer:
            served += serve(writer, 4)
    bucket = paths.lake_uri.split("/")[2]
    command = [sys.executable, "-c", INGESTER, str(paths.data_dir), url, bucket]
    rivals = [subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}) for _ in range(4)]
    assert [rival.wait(timeout=120) for rival in rivals] == [0] * 4
    assert ids(paths) == sorted(served)
    report = ingest(paths, NOW)
    assert report.total.closes and report.rows["requests"] == len(rows(paths)) == 24


def test_maintenance_on_s3(paths: LakeSettings) -> None:
    lake = paths.lake_dir
    for n in range(14):
        append(lake, "runs", [run_row(0, run_id=f"r{n:02d}")])
    now = datetime.now(UTC) + timedelta(days=60)
    kind = RetentionSettings().model_copy(update={"vacuum_hours": 0})
    before = sizes(lake / "runs")
    planned = maintain_table(lake, "runs", kind, {12: ["aa"]}, now, dry_run=True)
    assert planned is not None and planned.merged_files == 14 and sizes(lake / "runs") == before
    done = maintain_table(lake, "runs", kind, {12: ["aa"]}, now)
    assert done is not None
    assert (done.merged_files, done.files_after, done.removed_files) == (14, 1, 2)
    assert done.kept_versions == {12: ["aa"]} and done.checkpoint
    again = maintain_table(lake, "runs", kind, {}, now)
    assert again is not None and again.removed_files == 12 and again.log_files > 10
    after = sizes(lake / "runs")
    assert len([name for name in after if name.startswith("date=")]) == 1
    assert sorted(scan(lake, "runs").collect()["run_id"]) == [f"r{n:02d}" for n in range(14)]


def test_a_server_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with s3_server() as address:
        client(address).create_bucket(Bucket="lake")
        gone = settings(tmp_path, address, "lake")
        table = open_table(gone.lake_dir, "runs")
    with pytest.raises(SetupError, match="S3 server"):
        open_table(gone.lake_dir, "runs")
    with pytest.raises(CommitUnknownError):
        append(gone.lake_dir, "runs", [run_row(0)], table=table)


def test_keys_are_not_shown(paths: LakeSettings) -> None:
    hushed = paths.model_copy(update={"lake_s3_secret": SecretStr("hush-hush")})
    assert isinstance(hushed.lake_dir, S3Location) and "hush-hush" in hushed.lake_dir.options.values()
    assert "hush" not in repr(hushed) and "hush" not in repr(hushed.lake_dir)


def test_the_standard_variables_serve_too(
    paths: LakeSettings, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(paths.lake_dir, "runs", [run_row(0)])
    for name, value in {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "MULLE_LAKE_URI": paths.lake_uri,
    }.items():
        monkeypatch.setenv(name, value)
    assert scan(LakeSettings(data_dir=tmp_path).lake_dir, "runs").collect().height == 1
