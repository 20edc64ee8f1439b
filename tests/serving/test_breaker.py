"""The circuit breaker: opens after faults in a row, lets one trial through, forgets nothing that matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lake.errors import (
    BackendBadAnswer,
    BackendError,
    BackendOverloaded,
    BackendRefused,
    BackendSuspended,
    BackendTimeout,
)
from serving.breaker import CircuitBreaker, says_unwell


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(3, 10.0, clock)
    for _ in range(3):
        breaker.let_in("x")
        breaker.failed()
    return breaker


def test_opens_after_faults_in_a_row() -> None:
    breaker = CircuitBreaker(3, 10.0, Clock())
    for fault in (True, True, False, True, True):
        breaker.let_in("x")
        breaker.failed() if fault else breaker.succeeded()
    assert breaker.state == "closed" and breaker.failures == 2
    breaker.failed()
    assert breaker.state == "open" and breaker.opened == 1 and not breaker.lets_in
    with pytest.raises(BackendSuspended, match="3 times in a row and is left alone for 10 s") as caught:
        breaker.let_in("http://llm")
    assert caught.value.detail["retry_after_s"] == 10 and caught.value.status == 503


@pytest.mark.parametrize("ends", ["succeeded", "answering", "failed", "abandoned"])
def test_one_trial_decides(ends: str) -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 10.0
    assert breaker.state == "half_open"
    breaker.let_in("x")
    with pytest.raises(BackendSuspended):
        breaker.let_in("x")  # one trial at a time
    getattr(breaker, ends)()
    assert breaker.state == {"failed": "open", "abandoned": "half_open"}.get(ends, "closed")
    assert breaker.opened == (2 if ends == "failed" else 1)
    if ends != "failed":
        breaker.let_in("x")


def test_calls_let_in_before_do_not_open_it_again() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 9.0
    breaker.failed()  # began while it was closed, ends now
    clock.now += 1.0
    assert breaker.state == "half_open" and breaker.opened == 1


def test_streams_that_break_off_count_although_they_began() -> None:
    breaker = CircuitBreaker(3, 10.0, Clock())
    for _ in range(3):
        breaker.let_in("x")
        breaker.answering()
        breaker.failed()
    assert breaker.state == "open"


@pytest.mark.parametrize(
    ("error", "unwell"),
    [
        (BackendError("refused"), True), (BackendError("500", status=500), True), (BackendBadAnswer("half"), True),
        (BackendTimeout("slow", limit_s=5.0), True), (BackendTimeout("no time was left", limit_s=0.2), None),
        (BackendOverloaded("loading", status=503), True), (BackendOverloaded("busy", status=429), False),
        (BackendOverloaded("our own connections"), None), (BackendRefused("key", status=401), False),
        (BackendRefused("prompt too long", status=400), False),
    ],
)  # fmt: skip
def test_what_says_that_a_server_is_unwell(error: BackendError, unwell: bool | None) -> None:
    assert says_unwell(error) is unwell
    breaker = CircuitBreaker(2, 10.0, Clock())
    breaker.failed()
    breaker.judge(error)
    assert breaker.failures == {True: 2, False: 0, None: 1}[unwell]


@given(st.lists(st.sampled_from(["call", "ok", "fail", "leave", "wait"]), max_size=60))
def test_it_never_stays_shut(events: list[str]) -> None:
    """Whatever happened: once what is under way has ended and `open_s` has passed, a call is let in."""
    clock = Clock()
    breaker = CircuitBreaker(2, 10.0, clock)
    under_way = 0
    for event in events:
        if event == "wait":
            clock.now += 6.0
        elif event == "call":
            try:
                breaker.let_in("x")
                under_way += 1
            except BackendSuspended:
                assert breaker.state != "closed"
        elif under_way:
            under_way -= 1
            {"ok": breaker.succeeded, "fail": breaker.failed, "leave": breaker.abandoned}[event]()
    for _ in range(under_way):
        breaker.abandoned()
    clock.now += 10.0
    breaker.let_in("x")
