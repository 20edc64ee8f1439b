"""How often a failed call may be tried again: never more than a share of the calls made. Pure but for the
clock.

Promise: over any 10 s, retries <= 0.2 x calls + 3, so that a struggling server is not pushed over.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 10.0
SHARE = 0.2
FLOOR = 3


class RetryBudget:
    """Counts calls and retries of the last `WINDOW_S`; for one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: deque[float] = deque()
        self._retries: deque[float] = deque()

    def note_call(self) -> None:
        """A new call, not a retry."""
        now = self._clock()
        self._forget(now)
        self._calls.append(now)

    def take(self) -> bool:
        """Whether one retry may be made now; counts it if so."""
        now = self._clock()
        self._forget(now)
        if len(self._retries) + 1 > SHARE * len(self._calls) + FLOOR:
            return False
        self._retries.append(now)
        return True

    def _forget(self, now: float) -> None:
        for events in (self._calls, self._retries):
            while events and events[0] <= now - WINDOW_S:
                events.popleft()


def backoff_s(attempt: int, retry_after: str | None = None) -> float:
    """Seconds before retry number `attempt` (1, 2, …): the server's Retry-After, else 50 ms doubled, with
    jitter.
    """
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        return float(min(int(retry_after), 3600))
    return 0.05 * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
