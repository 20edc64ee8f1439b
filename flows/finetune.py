"""QLoRA on a dataset version, in a subprocess of its own; the result is a candidate adapter in the registry.

Reads `data/datasets/<version>/` and `models/base/<name>/hf/`; writes `models/adapters/<id>/`.

    prefect deployment run 'finetune/local' -p config=configs/small-gpu.toml
    python -m flows.finetune --config configs/demo.toml
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.stages import finetune_stage


@flow(name="finetune")
def finetune_adapter(
    config: str | None = None, dataset: str | None = None, run_id: str | None = None
) -> dict[str, Any]:
    """Train on `dataset` (a version; default: the newest) with the hyperparameters of `config`."""
    return run_stage("finetune", run_id, lambda stage: finetune_stage(stage, config, dataset))


if __name__ == "__main__":
    main(finetune_adapter)
