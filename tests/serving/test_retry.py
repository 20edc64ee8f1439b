"""The retry budget and the pauses between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serving.retry import RetryBudget, backoff_s


def test_retry_budget_is_kept_over_any_ten_seconds() -> None:
    now = 0.0
    budget = RetryBudget(lambda: now)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]  # 0.2 * 0 + 3
    for _ in range(10):
        budget.note_call()
    assert [budget.take() for _ in range(3)] == [True, True, False]
    now = 10.5
    assert [budget.take() for _ in range(4)] == [True, True, True, False]


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
def test_retry_budget_property(events: list[tuple[float, bool]]) -> None:
    now = 0.0
    budget = RetryBudget(lambda: now)
    calls: list[float] = []
    retries: list[float] = []
    for pause, is_call in events:
        now += pause
        if is_call:
            budget.note_call()
            calls.append(now)
        elif budget.take():
            retries.append(now)
            recent = [t for t in retries if t > now - 10]
            assert len(recent) <= 0.2 * len([t for t in calls if t > now - 10]) + 3


def test_backoff() -> None:
    assert backoff_s(1, "2") == 2.0 and backoff_s(1, "999999") == 3600.0
    assert 0.025 <= backoff_s(1, "Wed, 21 Oct 2026") <= 0.075 and backoff_s(3) <= 0.3
