"""Load and overload, short form: counts and states. A gateway that leaks and one that fails when full are caught."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults import load
from tests.faults.harness import CI_SEED

pytestmark = pytest.mark.slow
SMALL = load.Rates(rated=20.0, in_flight=4, model_s=0.4, overload_s=4.0)


def test_no_errors_at_the_rated_load_and_proper_refusals_beyond(tmp_path: Path) -> None:
    tally = load.run(4, CI_SEED, tmp_path, rates=SMALL, timed=False)
    assert tally.failures == []
    assert tally.counts["requests"] > 40 and tally.counts["refused in overload"] > 20


@pytest.mark.parametrize(
    ("bug", "what", "seconds", "overload_s"),
    [("leaks", "memory drifted", 4, 1.0), ("rude", "errors in overload", 1, 3.0)],
)
def test_a_planted_bug_is_caught(tmp_path: Path, bug: str, what: str, seconds: int, overload_s: float) -> None:
    rates = replace(SMALL, overload_s=overload_s)
    tally = load.run(seconds, CI_SEED, tmp_path, bug=bug, rates=rates, timed=False)
    assert any(what in failure for failure in tally.failures)
