"""Synthetic questions and answers, made from catalogue entries by an LLM, filtered, and merged into a dataset.

Reads the catalogue and the index; asks the OpenAI-compatible endpoint MULLE_SYNTH_API_BASE (default:
LLM_API_BASE); writes the tables synthetic and rejects, then builds the dataset again with the new rows.

    prefect deployment run 'synthesize/local' -p tools=20
    python -m flows.synthesize --tools 20
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.stages import synthesize_stage


@flow(name="synthesize")
def synthesize_qa(tools: int | None = None, per_tool: int = 5, run_id: str | None = None) -> dict[str, Any]:
    """`per_tool` questions for each of `tools` catalogue entries (default: all); reports its yield by reason."""
    return run_stage("synthesize", run_id, lambda stage: synthesize_stage(stage, tools, per_tool))


if __name__ == "__main__":
    main(synthesize_qa)
