"""Put an adapter in service: passed gate, file checks, hot load on vLLM, live probe, then the pointer moves.

Reads the gate record of a run and the adapter's reference; writes the registry's log and
`models/finetuned_adapter`. A failure at any step leaves the champion as it is.

    prefect deployment run 'promote/local' -p adapter=<id> -p run_id=<run>
    python -m flows.promote --run-id <run>
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.stages import promote_stage


@flow(name="promote")
def promote_adapter(adapter: str | None = None, run_id: str | None = None) -> dict[str, Any]:
    """Promote `adapter` (default: the one that the run's gate judged)."""
    return run_stage("promote", run_id, lambda stage: promote_stage(stage, adapter))


if __name__ == "__main__":
    main(promote_adapter)
