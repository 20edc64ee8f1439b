"""The maintain step: every table, the journal and private records, in one report; a dry run touches nothing."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.settings import FlowSettings
from flows.steps import maintain as step
from flows.steps.maintain import run_maintain
from flows.steps.stage import StageContext
from lake.errors import IngestError, SetupError
from lake.ingest import ingest
from lake.journal.removal import LOCKS
from lake.journal.writer import JournalWriter
from lake.retention import RetentionSettings
from lake.settings import LakeSettings
from lake.tables import append, scan
from serving.settings import ServingSettings
from tests.lake.ingest_kit import NOW, ids, serve
from tests.lake.test_tables import run_row


class Later(datetime):
    """Forty days from now."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) + timedelta(days=40)


@pytest.fixture
def stage(tmp_path: Path) -> StageContext:
    lake = LakeSettings(data_dir=tmp_path)
    for _ in range(9):
        with JournalWriter(lake.journal_dir, role="gateway") as writer:
            serve(writer, 2)
        ingest(lake, NOW)
    return StageContext("run", "maintain", lake, ServingSettings(), FlowSettings())


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and "run/" not in str(path) and path.name not in LOCKS
    }


def test_one_report_of_tables_and_journal(stage: StageContext, monkeypatch: pytest.MonkeyPatch) -> None:
    before, served = tree(stage.lake.data_dir), ids(stage.lake)
    planned = run_maintain(stage, RetentionSettings(), dry_run=True)
    assert tree(stage.lake.data_dir) == before
    assert planned["merged_files"] == 9 and planned["journal_segments"] == 0
    done = run_maintain(stage, RetentionSettings())
    assert done["tables"]["requests"]["files_after"] == 1 and done["merged_files"] == 9
    assert done["tables"]["requests"]["kept"] == {"for_readers": 9} and done["journal"]["kept"] == {"young": 9}
    monkeypatch.setattr(step, "datetime", Later)
    again = run_maintain(stage, RetentionSettings())
    assert again["journal_segments"] == 9 and again["bytes_freed"] >= again["journal"]["bytes"] > 0
    assert ids(stage.lake) == served and ingest(stage.lake, NOW).total.closes
    orjson.dumps(again)


@pytest.mark.parametrize(
    ("change", "path", "value"),
    [
        ({"compact_files": 10}, ("tables", "requests", "kept"), {"few_files": 9}),
        ({"compact_files": 9}, ("merged_files",), 9),
        ({"journal_days": 41}, ("journal_segments",), 0),
        ({"journal_days": 39}, ("journal_segments",), 9),
    ],
)
def test_each_setting_has_an_effect(
    stage: StageContext, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], path: tuple[str, ...], value: Any
) -> None:
    monkeypatch.setattr(step, "datetime", Later)
    found: Any = run_maintain(stage, RetentionSettings.model_validate(change), dry_run=True)
    for part in path:
        found = found[part]
    assert found == value


@pytest.mark.parametrize("days", [30, 50])
def test_datasets_and_logs_are_kept_as_the_settings_say(
    stage: StageContext, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    row = {"version": "aa", "path": "x", "manifest_sha256": "", "rows": 1, "train": 1, "holdout": 0, "rejected": 0}
    facts = {"counts": "{}", "lake_versions": '{"requests": 4}', "seed": 0, "timestamp": datetime.now(UTC)}
    append(stage.lake.lake_dir, "datasets", [row | facts])
    for n in range(12):
        append(stage.lake.lake_dir, "runs", [run_row(n)])
    monkeypatch.setattr(step, "datetime", Later)
    done = run_maintain(stage, RetentionSettings.model_validate({"dataset_days": days, "log_days": days}))
    assert done["tables"]["requests"]["kept_versions"] == ({4: ["aa"]} if days == 50 else {})
    assert (done["tables"]["runs"]["log_files"] > 0) is (days == 30)


def test_a_table_that_fails_does_not_keep_the_others_from_it(
    stage: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = step.maintain_table

    def broken(lake_dir: Any, name: str, *args: Any, **options: Any) -> Any:
        if name == "requests":
            raise IngestError("the disk is full")
        return real(lake_dir, name, *args, **options)

    monkeypatch.setattr(step, "maintain_table", broken)
    append(stage.lake.lake_dir, "runs", [run_row(0)])
    with pytest.raises(SetupError, match="disk is full") as caught:
        run_maintain(stage, RetentionSettings())
    report: Any = caught.value.detail["report"]
    assert "runs" in report["tables"] and "requests" not in report["tables"]
    assert scan(stage.lake.lake_dir, "runs").collect().height == 1
