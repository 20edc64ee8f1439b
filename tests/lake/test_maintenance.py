"""Maintenance of a table: what is merged, removed and kept, beside readers and writers and killed anywhere."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from lake.erase_tables import replace_days
from lake.errors import CommitConflictError, IngestError
from lake.maintenance import TableMaintenance, maintain_table
from lake.retention import RetentionSettings
from lake.storage import actions, sizes
from lake.table_log import log_files, old_files
from lake.tables import append, dataset, existing_table, open_table, scan
from tests.lake.ingest_kit import ROOT
from tests.lake.test_tables import run_row

NOW = datetime.now(UTC)
AT_ONCE = RetentionSettings().model_copy(update={"vacuum_hours": 0, "compact_files": 2})


def maintain(lake: Path, retention: RetentionSettings = AT_ONCE, **options: Any) -> TableMaintenance:
    done = maintain_table(lake, "runs", retention, options.pop("named", {}), options.pop("now", NOW), **options)
    assert done is not None
    return done


def fill(lake: Path, count: int) -> None:
    """`count` commits of one row each, two a day from 23:30 on."""
    for n in range(count):
        append(lake, "runs", [run_row(0, run_id=f"r{n:03d}", report="비밀" * 20)], table=None)


def ids(lake: Path, version: int | None = None) -> list[str]:
    return sorted(scan(lake, "runs", version).collect()["run_id"])


def parquet(lake: Path) -> list[str]:
    return sorted(name for name in sizes(lake / "runs") if name.startswith("date="))


def test_small_files_become_one_and_rows_stay(tmp_path: Path) -> None:
    fill(tmp_path, 9)
    before = ids(tmp_path)
    planned = maintain(tmp_path, dry_run=True)
    assert (planned.merged_files, planned.merged_days, planned.version) == (9, 1, 9)
    assert len(parquet(tmp_path)) == 9, "a dry run touches nothing"
    done = maintain(tmp_path)
    assert (done.merged_files, done.files_before, done.files_after) == (9, 9, 1)
    assert ids(tmp_path) == before and len(parquet(tmp_path)) == 1
    assert done.removed_files == 9 and done.removed_bytes > 0
    (added,) = [one for version in range(10, done.version) for one in actions(tmp_path / "runs", version, "add")]
    assert "비밀" not in added["stats"] and "run_id" in added["stats"]
    group = pq.read_metadata(tmp_path / "runs" / added["path"]).row_group(0)
    assert group.column(0).compression == "ZSTD" and group.num_rows == 9


def test_few_small_files_and_large_ones_are_left_alone(tmp_path: Path) -> None:
    fill(tmp_path, 4)
    assert maintain(tmp_path, AT_ONCE.model_copy(update={"compact_files": 5})).kept == {"few_files": 4}
    assert maintain(tmp_path, AT_ONCE.model_copy(update={"compact_files": 4})).merged_files == 4
    for n in range(4):  # 1 MB and more each, whatever zstd does
        append(tmp_path, "runs", [run_row(0, run_id=f"big{n}", report=os.urandom(1_100_000).hex())])
    assert maintain(tmp_path, AT_ONCE.model_copy(update={"compact_mb": 1}), dry_run=True).kept == {"few_files": 1}
    assert maintain(tmp_path, AT_ONCE.model_copy(update={"compact_mb": 100})).files_after == 1


def test_readers_that_run_keep_their_files(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    reader = existing_table(tmp_path, "runs")
    assert reader is not None
    done = maintain(tmp_path, AT_ONCE.model_copy(update={"vacuum_hours": 1}))
    assert done.kept == {"for_readers": 3} and done.removed_files == 0
    assert reader.to_pyarrow_table().num_rows == 3
    assert maintain(tmp_path).removed_files == 3


def test_versions_that_a_dataset_names_stay_readable(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    named = {2: ["aa"], 4: ["bb", "cc"], 99: ["dd"]}
    retention = AT_ONCE.model_copy(update={"log_days": 1})
    for _ in range(4):
        done = maintain(tmp_path, retention, named=named, now=NOW + timedelta(days=60))
        fill(tmp_path, 4)
    assert done.kept_versions == {2: ["aa"], 4: ["bb", "cc"]} and done.kept["for_datasets"] == 4
    assert done.gone_versions == {99: "the table never had it"}
    assert ids(tmp_path, 2) == ["r000", "r001"] and len(ids(tmp_path, 4)) == 4
    with pytest.raises(FileNotFoundError):
        DeltaTable(tmp_path / "runs", version=5).to_pyarrow_table()
    after = maintain(tmp_path, retention, now=NOW + timedelta(days=60))
    assert after.removed_files >= 4 and after.kept_versions == {}
    again = maintain(tmp_path, retention, named=named, now=NOW + timedelta(days=60))
    assert set(again.gone_versions) == {2, 4, 99} and "gone" in again.gone_versions[2]


@pytest.mark.parametrize("how", ["delete", "replace"])
def test_versions_from_before_an_erasure_are_not_kept(tmp_path: Path, how: str) -> None:
    fill(tmp_path, 4)
    table = open_table(tmp_path, "runs")
    if how == "delete":
        table.delete("run_id = 'r001'")
    else:  # as an erasure does
        rest = dataset(tmp_path, "runs").to_table(filter=pc.field("run_id") != "r001")
        replace_days(tmp_path, "runs", table, ["2026-01-01"], rest, {})
    append(tmp_path, "runs", [run_row(0, run_id="later")])
    done = maintain(tmp_path, named={3: ["aa"], 6: ["bb"]})
    assert done.gone_versions == {3: "an erasure took rows away since"} and list(done.kept_versions) == [6]
    assert ids(tmp_path, 6) == ["later", "r000", "r002", "r003"]
    there = {one for name in parquet(tmp_path) for one in pq.ParquetFile(tmp_path / "runs" / name).read()["run_id"]}
    assert {str(one) for one in there} == {"later", "r000", "r002", "r003"}


def test_the_log_is_shortened_and_marks_survive(tmp_path: Path) -> None:
    append(tmp_path, "runs", [run_row(0)], table=open_table(tmp_path, "runs"), txns={"journal:w/1.mjl": 4711})
    fill(tmp_path, 14)
    assert maintain(tmp_path).log_files == 0, "young commits stay"
    later = NOW + timedelta(days=31)
    planned = maintain(tmp_path, now=later, dry_run=True)
    done = maintain(tmp_path, now=later)
    assert done.log_files == planned.log_files > 10 and done.log_bytes > 0
    versions = [one.version for one in log_files(tmp_path / "runs") if one.kind == "json"]
    assert min(version for version in versions if version is not None) > 10
    table = open_table(tmp_path, "runs")
    assert table.transaction_version("journal:w/1.mjl") == 4711
    assert table.metadata().configuration["mulle.schemaVersion"] and len(ids(tmp_path)) == 15
    fill(tmp_path, 1)
    assert len(ids(tmp_path)) == 16


def test_no_commit_goes_on_the_word_of_a_damaged_checkpoint(tmp_path: Path) -> None:
    fill(tmp_path, 12)
    open_table(tmp_path, "runs").create_checkpoint()
    (checkpoint,) = (tmp_path / "runs/_delta_log").glob("*.checkpoint.parquet")
    late = NOW + timedelta(days=400)
    assert old_files(tmp_path / "runs", 12, 30, [], late)
    soon = datetime.now(UTC) + timedelta(minutes=30)
    assert old_files(tmp_path / "runs", 12, 0, [], soon) == [], "a reader may not know of a new checkpoint yet"
    assert old_files(tmp_path / "runs", 12, 0, [], soon + timedelta(hours=1))
    assert old_files(tmp_path / "runs", 12, 30, [5], late) == [], "no checkpoint at or below version 5"
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 3 : len(data) // 2] = os.urandom(len(data) // 2 - len(data) // 3)
    checkpoint.write_bytes(data)
    assert old_files(tmp_path / "runs", 12, 30, [], late) == []


def test_files_of_a_killed_writer_go_and_those_being_written_stay(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    day = next((tmp_path / "runs").glob("date=*"))
    (day / "part-killed.parquet").write_bytes(b"half")
    os.utime(day / "part-killed.parquet", (0, 0))
    (day / "part-in-flight.parquet").write_bytes(b"half")
    left = tmp_path / "runs/_delta_log/_commit_1234.json.tmp"
    left.write_bytes(b"{")
    os.utime(left, (0, 0))
    done = maintain(tmp_path, AT_ONCE.model_copy(update={"vacuum_hours": 1}))
    assert (done.removed_files, done.removed_bytes, done.log_files) == (1, 4, 1)
    assert not left.exists() and (day / "part-in-flight.parquet").exists()


def test_no_table_is_no_work(tmp_path: Path) -> None:
    assert maintain_table(tmp_path, "runs", AT_ONCE, {}, NOW) is None
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lake import maintenance

    fill(tmp_path, 3)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(maintenance, "make_durable", full)
    with pytest.raises(IngestError, match="nothing that is needed was removed"):
        maintain(tmp_path)
    monkeypatch.undo()
    assert maintain(tmp_path).files_after == 1 and len(ids(tmp_path)) == 3


def test_maintenance_in_a_loop_beside_writers_and_readers(tmp_path: Path) -> None:
    """Blind appends, appends on a snapshot (as ingest's) and scans, while files are merged all the time."""
    fill(tmp_path, 3)
    stop, failures, written = time.monotonic() + 3, [], [f"r{n:03d}" for n in range(3)]
    done: list[TableMaintenance] = []
    lock = threading.Lock()

    def wrote(name: str) -> None:
        with lock:
            written.append(name)

    def blind() -> None:
        for n in range(10**6):
            append(tmp_path, "runs", [run_row(0, run_id=f"b{n}")])
            wrote(f"b{n}")
            yield_if_over()

    def on_snapshot() -> None:
        for n in range(10**6):
            while True:
                try:
                    append(tmp_path, "runs", [run_row(0, run_id=f"s{n}")], table=open_table(tmp_path, "runs"))
                    break
                except CommitConflictError:
                    continue
            wrote(f"s{n}")
            yield_if_over()

    def read() -> None:
        while True:
            with lock:
                before = set(written)
            found = ids(tmp_path)
            assert before <= set(found) and len(found) == len(set(found))
            yield_if_over()

    def keep_house() -> None:
        while True:
            done.append(maintain(tmp_path, AT_ONCE.model_copy(update={"vacuum_hours": 1})))
            yield_if_over()

    def yield_if_over() -> None:
        if time.monotonic() > stop:
            raise StopIteration

    def guarded(work: Any) -> None:
        try:
            work()
        except StopIteration:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in (blind, on_snapshot, read, keep_house)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert failures == []
    assert ids(tmp_path) == sorted(written) and sum(one.merged_files for one in done) > 0
    maintain(tmp_path)
    assert ids(tmp_path) == sorted(written) and len(parquet(tmp_path)) == 1


KEEPER = """
import sys
from pathlib import Path
from tests.lake.test_maintenance import AT_ONCE, NOW, maintain, timedelta
retention = AT_ONCE.model_copy(update={"vacuum_hours": int(sys.argv[2])})
print("ready", flush=True)
while True:
    maintain(Path(sys.argv[1]), retention, named={3: ["aa"]}, now=NOW + timedelta(days=60))
"""


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_moment_the_table_is_whole(tmp_path: Path, seed: int) -> None:
    """SIGKILL at a random moment of a run, several times over; the version that a dataset names outlives it all.

    Even seeds: alone, and files go at once. Odd ones: beside a writer, whose files need the hour that they have.
    """
    chance, alone = random.Random(seed), seed % 2 == 0
    fill(tmp_path, 4)
    written = ids(tmp_path)
    for turn in range(5):
        if alone:
            written += [put(tmp_path, f"t{turn}-{n}") for n in range(6)]
        keeper = subprocess.Popen(
            [sys.executable, "-c", KEEPER, str(tmp_path), "0" if alone else "1"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": "."},
            stdout=subprocess.PIPE,
        )
        assert keeper.stdout and keeper.stdout.readline() == b"ready\n"
        until = time.monotonic() + chance.uniform(0.02, 0.4)
        while time.monotonic() < until:
            if alone:
                time.sleep(0.01)
            else:
                written.append(put(tmp_path, f"t{turn}-{len(written)}"))
        keeper.send_signal(signal.SIGKILL)
        assert keeper.wait() == -signal.SIGKILL, "it failed before it was killed"
        keeper.stdout.close()
        assert ids(tmp_path) == sorted(written), f"seed {seed}"
        assert len(ids(tmp_path, 3)) == 3
    done = maintain(tmp_path, named={3: ["aa"]})
    assert done.kept_versions == {3: ["aa"]} and ids(tmp_path) == sorted(written)


def put(lake: Path, run_id: str) -> str:
    append(lake, "runs", [run_row(0, run_id=run_id)])
    return run_id


def test_each_retention_setting_is_bounded() -> None:
    for wrong in ({"compact_files": 1}, {"compact_mb": 0}, {"vacuum_hours": 0}, {"log_days": 0}, {"journal_days": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RetentionSettings.model_validate(wrong)
