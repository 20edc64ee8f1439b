"""Build a versioned (prompt, completion) dataset from the lake.

Reads the tables requests, reviews, feedback, synthetic and the test questions (to keep them out); writes
`data/datasets/<version>/`. The same lake versions, settings and seed give the same bytes.

    prefect deployment run 'build/local'
    python -m flows.build
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.stages import build_stage


@flow(name="build")
def build_dataset(run_id: str | None = None) -> dict[str, Any]:
    """Build and verify a dataset version; the report names it and counts what was dropped, by reason."""
    return run_stage("build", run_id, build_stage)


if __name__ == "__main__":
    main(build_dataset)
