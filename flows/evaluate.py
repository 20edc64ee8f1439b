"""Base and adapter answer the same held-out questions through the same server; the gate judges the difference.

Reads the test set (nothing else ever does, but to keep it out of training); asks vLLM (base and adapter on one
server, started when none runs) or the two llama.cpp servers that stand for LM Studio; writes the evaluations
table, `data/runs/<run_id>/evaluation-<backend>.json` and the gate's record.

    prefect deployment run 'evaluate/local' -p backend=vllm
    python -m flows.evaluate --backend lmstudio --limit 40
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.stages import evaluate_stage


@flow(name="evaluate")
def evaluate_adapter(
    adapter: str | None = None, backend: str = "vllm", limit: int | None = None, run_id: str | None = None
) -> dict[str, Any]:
    """Judge `adapter` (default: the newest candidate) on `backend` with `limit` questions (default: all)."""
    name = "evaluate" if backend == "vllm" else f"evaluate-{backend}"
    return run_stage(name, run_id, lambda stage: evaluate_stage(stage, adapter, backend, limit))


if __name__ == "__main__":
    main(evaluate_adapter)
