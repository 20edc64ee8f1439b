"""One turn of the wheel: ingest → build → synthesize → finetune → evaluate → promote → export.

Each is a flow of its own; this one only passes the ids on. A candidate that the gate refuses ends the turn
without promotion or export, which is a success of the wheel: the champion stays.

    prefect deployment run 'cycle/local' --watch
    python -m flows.cycle
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from ulid import ULID

from flows.build import build_dataset
from flows.edge import main
from flows.evaluate import evaluate_adapter
from flows.export import export_gguf
from flows.finetune import finetune_adapter
from flows.ingest import ingest_logs
from flows.promote import promote_adapter
from flows.synthesize import synthesize_qa


@flow(name="cycle")
def turn_wheel(
    train_config: str | None = None,
    synth_tools: int | None = None,
    per_tool: int = 5,
    limit: int | None = None,
    quantisation: str = "q8_0",
    run_id: str | None = None,
) -> dict[str, Any]:
    """Turn once. `synth_tools`: entries to synthesise for (0: none); `limit`: held-out questions (default: all)."""
    run_id = run_id or str(ULID())
    ingest_logs(run_id)
    dataset = build_dataset(run_id=run_id)["dataset"]
    if synth_tools != 0:
        dataset = synthesize_qa(synth_tools, per_tool, None, run_id)["dataset"]
    adapter = finetune_adapter(train_config, dataset, run_id)["adapter"]
    verdict = evaluate_adapter(adapter, "vllm", limit, run_id)
    if not verdict["passed"]:
        return {"run_id": run_id, "dataset": dataset, "adapter": adapter, "promoted": False}
    served = promote_adapter(adapter, run_id)["served_name"]
    gguf = export_gguf(adapter, quantisation, run_id)["path"]
    return {
        "run_id": run_id,
        "dataset": dataset,
        "adapter": adapter,
        "promoted": True,
        "served_name": served,
        "gguf": gguf,
    }


if __name__ == "__main__":
    main(turn_wheel)
