"""A stronger model labels logged questions that nobody has labelled, the most valuable ones first.

Reads the lake; asks the OpenAI-compatible endpoint MULLE_TEACHER_API_BASE with the prompt that was served; writes the
tables teacher_labels and rejects. Keeps within MULLE_TEACHER_BUDGET_TOKENS and MULLE_TEACHER_BUDGET_COST. After a kill,
the same run id goes on without asking anything again.

    prefect deployment run 'teach/local' -p limit=200
    python -m flows.teach --limit 200
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.teach_stage import teach_stage


@flow(name="teach")
def teach_labels(limit: int | None = None, run_id: str | None = None) -> dict[str, Any]:
    """Label at most `limit` questions (default: MULLE_TEACHER_LIMIT); reports labels, reasons and cost."""
    return run_stage("teach", run_id, lambda stage: teach_stage(stage, limit))


if __name__ == "__main__":
    main(teach_labels)
