"""Rate limits: a token bucket for each key and each address, in the memory of this worker.

The notation of rates (`600/minute`) is that of the library `limits`. Its memory store is not used: it starts a thread
for each expiry that looks through every entry, which cost more than the request from ten thousand addresses on
(docs/decisions/0010). A bucket here is one number, the time at which it is full again (the generic cell rate
algorithm), so a hit costs about a microsecond whatever the number of buckets. Invariant: at most `MAX_BUCKETS`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from limits import RateLimitItem

MAX_BUCKETS = 100_000  # about 15 MB; the oldest are forgotten first


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a bucket says about one request. `wait_s` is the time until the next may come, 0 where this one may."""

    allowed: bool
    limit: int  # requests of this worker in `window_s`
    window_s: int
    remaining: int
    reset_s: float  # until the bucket is full again
    wait_s: float


class RateLimiter:
    """Not for threads: one event loop. `workers` share the configured rate, each takes its part of it."""

    def __init__(self, workers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._workers = max(1, workers)
        self._clock = clock
        self._full_at: dict[tuple[str, str], float] = {}
        self._sweep_at = 1024

    def __len__(self) -> int:
        return len(self._full_at)

    def hit(self, kind: str, who: str, item: RateLimitItem) -> Verdict:
        """Take one request out of the bucket of `who`; a refused request takes nothing."""
        now = self._clock()
        limit = max(1, item.amount // self._workers)
        window_s = item.get_expiry()
        step_s = window_s / limit
        full_at = max(self._full_at.get((kind, who), now), now) + step_s
        over_s = full_at - now - window_s
        if over_s > 1e-9:
            return Verdict(False, limit, window_s, 0, full_at - step_s - now, over_s)
        self._full_at[(kind, who)] = full_at
        if len(self._full_at) > self._sweep_at:
            self._sweep(now)
        return Verdict(True, limit, window_s, int(-over_s / step_s + 1e-6), full_at - now, 0.0)

    def _sweep(self, now: float) -> None:
        """Forget buckets that are full again. Runs when their number has doubled, so a hit stays cheap on average."""
        alive = {who: full_at for who, full_at in self._full_at.items() if full_at > now}
        for who in list(alive)[: max(0, len(alive) - MAX_BUCKETS // 2)]:
            del alive[who]
        self._full_at = alive
        self._sweep_at = min(MAX_BUCKETS, max(1024, 2 * len(alive)))


def answer_headers(kind: str, verdict: Verdict) -> list[tuple[bytes, bytes]]:
    """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10), `Retry-After` on a refusal."""
    headers = [
        (b"ratelimit-policy", f'"{kind}";q={verdict.limit};w={verdict.window_s}'.encode()),
        (b"ratelimit", f'"{kind}";r={verdict.remaining};t={math.ceil(verdict.reset_s)}'.encode()),
    ]
    if not verdict.allowed:
        headers.append((b"retry-after", str(max(1, math.ceil(verdict.wait_s))).encode()))
    return headers
