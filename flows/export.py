"""Merge an adapter into the unquantised base and write a GGUF that LM Studio and llama.cpp load.

Reads `models/adapters/<id>/` and the base model; writes `models/gguf/<id>/` with sha256.

    prefect deployment run 'export/local' -p quantisation=q8_0
    python -m flows.export --adapter <id> --quantisation f16
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.stages import export_stage


@flow(name="export")
def export_gguf(adapter: str | None = None, quantisation: str = "q8_0", run_id: str | None = None) -> dict[str, Any]:
    """Export `adapter` (default: the champion) as f16 or q8_0."""
    return run_stage("export", run_id, lambda stage: export_stage(stage, adapter, quantisation))


if __name__ == "__main__":
    main(export_gguf)
