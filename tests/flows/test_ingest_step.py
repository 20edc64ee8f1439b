"""The ingest step, beside the ingest itself (tests/lake/test_ingest.py)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from flows.settings import FlowSettings
from flows.steps.ingest import run_ingest
from flows.steps.ingest_ledger import ledger_markdown
from flows.steps.stage import StageContext
from lake.errors import IngestError
from lake.journal.private import PrivateJournal
from lake.journal.writer import JournalWriter
from lake.schemas.records import FrameKind
from lake.settings import LakeSettings
from lake.tables import open_table
from serving.settings import ServingSettings
from tests.lake.ingest_kit import put, request, review, serve


def test_it_takes_away_private_records_that_were_kept_for_long_enough(tmp_path: Path) -> None:
    lake = LakeSettings(data_dir=tmp_path, opt_out_days=3)
    stage = StageContext("run", "ingest", lake, ServingSettings(), FlowSettings())
    private = PrivateJournal(lake.private_journal_dir, clock=lambda: datetime.now(UTC) - timedelta(days=4))

    async def work() -> None:
        await private.append(FrameKind.REQUEST, {"n": 1})
        assert run_ingest(stage)["private_folders_removed"] == 0  # its writer lives
        await private.aclose()

    asyncio.run(work())
    assert run_ingest(stage)["private_folders_removed"] == 1


def stage_of(folder: Path) -> StageContext:
    lake = LakeSettings(data_dir=folder)
    return StageContext("run", "ingest", lake, ServingSettings(), FlowSettings())


def test_the_ledger_is_a_table_and_a_metric(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    with JournalWriter(stage.lake.journal_dir, role="gateway") as writer:
        (rid,) = serve(writer)
        put(writer, FrameKind.REQUEST, request(rid))
        put(writer, FrameKind.REVIEW, review(1, answer=None))
        report = run_ingest(stage, audit=True)
    shown = ledger_markdown(report, closes=True)
    assert "| journalled | 4 | 4 |" in shown and "| dropped | 1 | 1 |" in shown and "| duplicate_id | 1 |" in shown
    assert "closes" in shown and "| invalid reviews: answer: missing | 1 |" in shown
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families((tmp_path / "run" / "ingest.prom").read_text())
        for sample in family.samples
    }
    assert samples["mulle_ingest_frames", "ingested"] == 2 and samples["mulle_ingest_frames", "quarantined"] == 1
    assert samples["mulle_ingest_ledger_closes",] == 1 and samples["mulle_ingest_rows", "requests"] == 1
    assert samples["mulle_ingest_last_run_timestamp_seconds",] > 1.7e9


def test_books_that_do_not_close_fail_the_run_and_show_in_the_metric(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    with JournalWriter(stage.lake.journal_dir, role="gateway") as writer:
        serve(writer, 2)
    run_ingest(stage)
    open_table(stage.lake.lake_dir, "requests").delete("seq = 1")
    with pytest.raises(IngestError, match="does not close") as caught:
        run_ingest(stage)
    assert "mulle_ingest_ledger_closes 0.0" in (tmp_path / "run" / "ingest.prom").read_text()
    report: Any = caught.value.detail["report"]
    assert "DOES NOT CLOSE" in ledger_markdown(report, closes=False)
