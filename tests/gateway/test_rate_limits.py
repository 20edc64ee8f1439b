"""Token buckets by a clock of the test: bursts, refill, shares of workers, bounded memory, headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import parse

from gateway import rate_limits
from gateway.rate_limits import RateLimiter, answer_headers


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_burst_then_refill() -> None:
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    item = parse("6/minute")
    assert [limiter.hit("key", "a", item).remaining for _ in range(6)] == [5, 4, 3, 2, 1, 0]
    refused = limiter.hit("key", "a", item)
    assert not refused.allowed and refused.wait_s == pytest.approx(10) and refused.reset_s == pytest.approx(60)
    assert dict(answer_headers("key", refused)) == {
        b"ratelimit-policy": b'"key";q=6;w=60',
        b"ratelimit": b'"key";r=0;t=60',
        b"retry-after": b"10",
    }
    assert limiter.hit("key", "b", item).allowed and limiter.hit("address", "a", item).allowed
    clock.now += 9.9
    assert not limiter.hit("key", "a", item).allowed
    clock.now += 0.2  # a refused request took nothing
    allowed = limiter.hit("key", "a", item)
    assert allowed.allowed and b"retry-after" not in dict(answer_headers("key", allowed))
    assert not limiter.hit("key", "a", item).allowed


@pytest.mark.parametrize(("workers", "each"), [(1, 10), (2, 5), (3, 3), (64, 1)])
def test_workers_share_the_rate(workers: int, each: int) -> None:
    limiter = RateLimiter(workers, Clock())
    assert [limiter.hit("key", "a", parse("10/minute")).allowed for _ in range(11)].count(True) == each


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_BUCKETS", 4000)
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    item = parse("10/minute")
    for number in range(20_000):
        limiter.hit("address", str(number), item)
        assert len(limiter) <= 4001
    assert not all(limiter.hit("address", "19999", item).allowed for _ in range(10))  # the newest are kept
    clock.now += 61
    for number in range(5000):
        limiter.hit("address", f"new {number}", item)
    assert len(limiter) <= 5000 and ("address", "19999") not in limiter._full_at


@given(st.lists(st.floats(0, 30), min_size=1, max_size=200), st.integers(1, 20))
def test_never_more_than_a_burst_and_the_refill(pauses: list[float], amount: int) -> None:
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    item = parse(f"{amount}/minute")
    allowed = 0
    for pause in pauses:
        clock.now += pause
        allowed += limiter.hit("key", "a", item).allowed
        assert allowed <= amount + (clock.now - 1000) * amount / 60 + 1e-6
