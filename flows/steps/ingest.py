"""Ingest step: journal → Delta tables (lake/ingest.py holds the rule that makes it exactly once)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flows.steps.stage import StageContext
from lake.ingest import ingest


def run_ingest(stage: StageContext) -> dict[str, Any]:
    """Ingest all that is new. Raises `IngestError` when the ledger does not close. Safe to retry."""
    report = ingest(stage.lake, datetime.now(UTC)).to_dict()
    stage.log(f"rows added: {report['rows_added']}, ledger: {report['total']}")
    return report
