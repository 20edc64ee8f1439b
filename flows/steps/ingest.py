"""Ingest step: journal → Delta tables (lake/ingest.py holds the rule that makes it exactly once)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flows.steps.ingest_ledger import write_metrics
from flows.steps.stage import StageContext
from lake.errors import IngestError
from lake.ingest import ingest
from lake.journal.private import sweep

METRICS = "ingest.prom"


def run_ingest(stage: StageContext, audit: bool = False) -> dict[str, Any]:
    """Ingest all that is new. Raises `IngestError` when the ledger does not close. Safe to retry.

    `audit`: count the whole journal anew. Takes opted-out text away, too, that was kept for long enough: no gateway
    may be running that would. The metrics are written either way.
    """
    now = datetime.now(UTC)
    swept = sweep(stage.lake.private_journal_dir, stage.lake.opt_out_days, now)
    metrics = stage.lake.run_dir / METRICS
    try:
        report = ingest(stage.lake, now, whole=audit).to_dict()
    except IngestError as error:
        if isinstance(report := error.detail.get("report"), dict):
            write_metrics(metrics, report, closes=False, now_s=datetime.now(UTC).timestamp())
        raise
    write_metrics(metrics, report, closes=True, now_s=datetime.now(UTC).timestamp())
    stage.log(f"rows added: {report['rows_added']}, ledger: {report['total']}")
    return {**report, "private_folders_removed": swept}
