"""Build the FAISS index from a tool catalogue and put it in service.

Reads the catalogue (JSONL, CSV, Parquet); writes `data/index/<version>/` and swaps `data/index/current`.

    prefect deployment run 'index/local' -p catalog=my_tools.csv
    python -m flows.index --catalog my_tools.csv
    python -m flows.index --rollback
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.index import run_index, run_rollback


@flow(name="index")
def index_catalog(catalog: str | None = None, rollback: bool = False, run_id: str | None = None) -> dict[str, Any]:
    """Build the index of `catalog` (default: MULLE_CATALOG); bad rows are reported, the rest goes in. `rollback`: put
    the version before back in service instead.
    """
    return run_stage("index", run_id, lambda stage: run_rollback(stage) if rollback else run_index(stage, catalog))


if __name__ == "__main__":
    main(index_catalog)
