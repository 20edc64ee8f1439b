"""Ingest step: journal → Delta tables (lake/ingest.py holds the rule that makes it exactly once)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flows.steps.stage import StageContext
from lake.ingest import ingest
from lake.journal.private import sweep


def run_ingest(stage: StageContext) -> dict[str, Any]:
    """Ingest all that is new. Raises `IngestError` when the ledger does not close. Safe to retry.

    Takes opted-out text away, too, that was kept for long enough: no gateway may be running that would.
    """
    now = datetime.now(UTC)
    swept = sweep(stage.lake.private_journal_dir, stage.lake.opt_out_days, now)
    report = ingest(stage.lake, now).to_dict()
    stage.log(f"rows added: {report['rows_added']}, ledger: {report['total']}")
    return {**report, "private_folders_removed": swept}
