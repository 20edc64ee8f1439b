"""Synthetic questions and answers, made from catalogue entries by an LLM, filtered, and merged into a dataset.

Reads the tools of the index in service; asks the OpenAI-compatible endpoint MULLE_SYNTH_API_BASE (default:
LLM_API_BASE) within MULLE_SYNTH_BUDGET_*; writes the tables synthetic and rejects, then builds the dataset again with
the new rows. After a kill, the same run id goes on without asking anything again; another seed asks other things.

    prefect deployment run 'synthesize/local' -p tools=20
    python -m flows.synthesize --tools 20
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.synthesize_stage import synthesize_stage


@flow(name="synthesize")
def synthesize_qa(
    tools: int | None = None, per_tool: int = 5, seed: int | None = None, run_id: str | None = None
) -> dict[str, Any]:
    """`per_tool` questions for each of `tools` catalogue entries (default: MULLE_SYNTH_MAX_TOOLS), chosen by `seed`
    (default: of the run id) over all categories; reports its yield by reason, kind and language, and its cost.
    """
    return run_stage("synthesize", run_id, lambda stage: synthesize_stage(stage, tools, per_tool, seed))


if __name__ == "__main__":
    main(synthesize_qa)
