"""Send questions to a gateway, a few at a time, and count what comes back: the demo's users.

Talks HTTP only (`POST /api/v1/search`), so it sees what a user sees; nothing is retried, so a dropped request
shows in the counts.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httpx

from lake.progress import Progress

TIMEOUT_S = 120.0


async def ask(
    gateway_url: str, questions: Sequence[str], concurrency: int, progress: Progress, stop: asyncio.Event | None = None
) -> dict[str, Any]:
    """Ask every question once, or go round until `stop` is set; returns counts by HTTP status and by backend."""
    statuses: Counter[str] = Counter()
    served_by: Counter[str] = Counter()
    latencies: list[float] = []
    queue = iter(range(len(questions))) if stop is None else iter(range(10**9))
    timeout = httpx.Timeout(TIMEOUT_S, connect=5.0)
    limits = httpx.Limits(max_connections=concurrency)
    async with httpx.AsyncClient(trust_env=False, timeout=timeout, limits=limits) as client:

        async def user() -> None:
            for number in queue:
                if stop is not None and stop.is_set():
                    return
                begun = time.perf_counter()
                try:
                    reply = await client.post(
                        f"{gateway_url}/api/v1/search", json={"question": questions[number % len(questions)]}
                    )
                    statuses[str(reply.status_code)] += 1
                    if reply.status_code == 200:
                        served = reply.json()["served_by"]
                        served_by[f"{served['backend']}:{served['model']}"] += 1
                except httpx.HTTPError as error:
                    statuses[type(error).__name__] += 1
                latencies.append(time.perf_counter() - begun)
                progress.advance()

        await asyncio.gather(*(user() for _ in range(concurrency)))
    latencies.sort()
    return {
        "asked": len(latencies),
        "statuses": dict(statuses),
        "served_by": dict(served_by),
        "p50_ms": round(1000 * latencies[len(latencies) // 2], 1) if latencies else None,
        "p95_ms": round(1000 * latencies[int(len(latencies) * 0.95)], 1) if latencies else None,
    }
