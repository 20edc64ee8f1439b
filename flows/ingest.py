"""Take the journal's records into the lake, each exactly once.

Reads `data/journal/`; writes the Delta tables `requests`, `reviews`, `feedback` and `data/quarantine/`.
The ledger (journalled = ingested + quarantined + dropped + pending) must close or the run fails.

    prefect deployment run 'ingest/local'
    python -m flows.ingest
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.ingest import run_ingest


@flow(name="ingest")
def ingest_logs(run_id: str | None = None) -> dict[str, Any]:
    """Ingest what is new; a replay is a no-op."""
    return run_stage("ingest", run_id, run_ingest)


if __name__ == "__main__":
    main(ingest_logs)
