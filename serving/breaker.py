"""Leaves a server alone that keeps failing: a circuit breaker for one backend. Pure but for the clock.

Closed: every call goes through. After `failures` faults in a row it opens: calls end at once. After `open_s` it is half
open: one call is let through; if it is answered the breaker closes, if not it opens again. Only faults that say that
the server is unwell count (`says_unwell`): a refused request was understood. For one event loop.

Written here because the libraries wrap one coroutine: a stream needs three moments (let in, answering, ended), and a
trial that its caller gave up must be handed back (docs/decisions/0009).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from lake.errors import BackendError, BackendOverloaded, BackendRefused, BackendSuspended, BackendTimeout

State = Literal["closed", "open", "half_open"]
FAIR_S = 1.0  # a server that was given less time than this is not judged by having missed it


class CircuitBreaker:
    """`let_in` before a call; then exactly one of `succeeded`, `failed`, `abandoned`. `answering` may come between."""

    def __init__(self, failures: int, open_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._open_s = open_s
        self._clock = clock
        self._opened_at: float | None = None
        self._on_trial = False
        self.failures = 0  # in a row
        self.opened = 0  # how often, since the start

    @property
    def state(self) -> State:
        """`half_open` once the next call would be the trial, and while it is under way."""
        if self._opened_at is None:
            return "closed"
        return "open" if self.retry_in_s > 0 else "half_open"

    @property
    def retry_in_s(self) -> float:
        """Seconds until a call is let through again; 0 where one may be."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._open_s - self._clock())

    @property
    def lets_in(self) -> bool:
        """Whether `let_in` would succeed now."""
        return self._opened_at is None or (self.retry_in_s <= 0 and not self._on_trial)

    def let_in(self, where: str) -> None:
        """Raises `BackendSuspended` while the server at `where` is left alone."""
        if self._opened_at is None:
            return
        if not self.lets_in:
            wait_s = max(1, round(self.retry_in_s))
            raise BackendSuspended(
                f"The LLM server at {where} failed {self.failures} times in a row and is left alone for {wait_s} s: "
                "see its log.",
                retry_after_s=wait_s,
            )
        self._on_trial = True

    def answering(self) -> None:
        """The first of an answer has come: enough to let others in again."""
        if self._opened_at is not None:
            self.succeeded()

    def succeeded(self) -> None:
        """The call was answered, or refused with a reason."""
        self._opened_at, self._on_trial, self.failures = None, False, 0

    def failed(self) -> None:
        """The call ended by a fault of the server."""
        self.failures += 1
        opens = self.failures >= self._limit if self._opened_at is None else self._on_trial
        if opens:  # else it is open already, and this call had been let in before
            self._opened_at, self._on_trial = self._clock(), False
            self.opened += 1

    def abandoned(self) -> None:
        """The caller went away: nothing was learnt, the next call may be the trial."""
        self._on_trial = False

    def judge(self, error: BackendError) -> None:
        """`failed` or `succeeded`, by what the error says about the server."""
        verdict = says_unwell(error)
        if verdict is None:
            self.abandoned()
        elif verdict:
            self.failed()
        else:
            self.succeeded()


def says_unwell(error: BackendError) -> bool | None:
    """Whether the error shows a server in trouble (no connection, too slow, 5xx, bad answer); None: neither."""
    if isinstance(error, BackendRefused):
        return False
    if isinstance(error, BackendOverloaded):
        status = error.detail.get("status")
        return None if status is None else status != 429  # 429 is a server that minds itself
    if isinstance(error, BackendTimeout):
        limit_s = error.detail.get("limit_s")
        return None if isinstance(limit_s, float) and limit_s < FAIR_S else True
    return True
