"""Build a versioned (prompt, completion) dataset from the lake.

Reads the tables requests, reviews, feedback, teacher_labels, synthetic, the catalogue and the test questions (to keep
them out); writes `data/datasets/<version>/` and the tables datasets, rejects and retrieval_failures. The same lake
versions, settings and seed give the same bytes.

    prefect deployment run 'build/local' -p 'change=["own_share=0.3"]'
    python -m flows.build --config configs/dataset.toml --change own_share=0.3 --change 'language_shares={ko=0.7}'
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.stages import build_stage


@flow(name="build")
def build_dataset(
    config: str | None = None, change: list[str] | None = None, run_id: str | None = None
) -> dict[str, Any]:
    """Build and verify a dataset version; the report names it and counts what was dropped, by reason. `config`: a TOML
    file (default: MULLE_BUILD_CONFIG); `change`: name=value, each in the place of what the file says.
    """
    return run_stage("build", run_id, lambda stage: build_stage(stage, config, change))


if __name__ == "__main__":
    main(build_dataset)
