"""The ingest step, beside the ingest itself (tests/lake/test_ingest.py)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.settings import FlowSettings
from flows.steps.ingest import run_ingest
from flows.steps.stage import StageContext
from lake.journal.private import PrivateJournal
from lake.schemas.records import FrameKind
from lake.settings import LakeSettings
from serving.settings import ServingSettings


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
