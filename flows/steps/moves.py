"""Move the running gateway to another backend while questions keep coming, and count what that cost.

The move itself is `serving.switch`; here is the proof that no request was dropped: users ask before, during and
after it, and every status other than 200 is in the report.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.steps.ask import ask
from lake.progress import Progress
from serving.backends import Backend
from serving.switch import SwitchReport, switch_backend
from serving.targets import save_target


@dataclass(frozen=True, slots=True)
class GatewayAt:
    """Where the gateway answers and the files that its backend follows."""

    url: str
    env_file: Path
    run_dir: Path

    @property
    def ack_dir(self) -> Path:
        return self.run_dir / "ack"


def switch(gateway: GatewayAt, backend: Backend, champion: str = "") -> SwitchReport:
    """Probe `backend`, put it into the gateway's environment, wait for the acknowledgement. `champion`: id of the
    adapter in service, for a backend that follows it.
    """
    return asyncio.run(switch_backend(backend, gateway.env_file, gateway.ack_dir, champion=champion))


def move_under_load(
    gateway: GatewayAt, name: str, backend: Backend, questions: Sequence[str], users: int, seconds: float
) -> dict[str, Any]:
    """Ask for `seconds` before the move and as long after it; `not_ok` counts every answer that was not 200."""
    save_target(gateway.run_dir, name, backend)
    return asyncio.run(_move(gateway, backend, questions, users, seconds))


async def _move(
    gateway: GatewayAt, backend: Backend, questions: Sequence[str], users: int, seconds: float
) -> dict[str, Any]:
    stop = asyncio.Event()
    progress = Progress(gateway.run_dir / "progress.jsonl", "questions during the move")
    load = asyncio.create_task(ask(gateway.url, questions, users, progress, stop))
    try:
        await asyncio.sleep(seconds)
        report = await switch_backend(backend, gateway.env_file, gateway.ack_dir)
        await asyncio.sleep(seconds)
    finally:
        stop.set()
        counts = await load
    not_ok = sum(count for status, count in counts["statuses"].items() if status != "200")
    return {
        "to": f"{report.backend.profile} {report.backend.model}",
        "switch_seconds": round(report.seconds, 2),
        "workers": report.workers,
        "not_ok": not_ok,
        **counts,
    }
