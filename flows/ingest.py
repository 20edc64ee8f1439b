"""Take the journal's records into the lake, each exactly once.

Reads what is new in `data/journal/` (all of it with `--audit`); writes the Delta tables `requests`, `reviews`,
`feedback`, `data/quarantine/` and the metrics in `data/run/ingest.prom`. The ledger (journalled = ingested +
quarantined + dropped + pending) becomes the artifact `ingest-ledger`, and must close or the run fails.

    prefect deployment run 'ingest/local'
    python -m flows.ingest --audit
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.edge import main, run_stage
from flows.steps.ingest import run_ingest
from flows.steps.ingest_ledger import ledger_markdown
from lake.errors import IngestError


@flow(name="ingest")
def ingest_logs(run_id: str | None = None, audit: bool = False) -> dict[str, Any]:
    """Ingest what is new; a replay is a no-op. `audit` counts the whole journal anew."""
    try:
        report = run_stage("ingest", run_id, lambda stage: run_ingest(stage, audit))
    except IngestError as error:
        if isinstance(found := error.detail.get("report"), dict):
            _show(found, closes=False)
        raise
    _show(report, closes=True)
    return report


def _show(report: dict[str, Any], closes: bool) -> None:
    create_markdown_artifact(
        key="ingest-ledger", markdown=ledger_markdown(report, closes), description="the ledger of ingest"
    )


if __name__ == "__main__":
    main(ingest_logs)
