"""Load and overload, short form: counts and states. A gateway that leaks and one that fails when full are caught."""

from __future__ import annotations

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


@pytest.mark.parametrize(("bug", "what"), [("leaks", "memory drifted"), ("rude", "errors in overload")])
def test_a_planted_bug_is_caught(tmp_path: Path, bug: str, what: str) -> None:
    tally = load.run(4, CI_SEED, tmp_path, bug=bug, rates=SMALL, timed=False)
    assert any(what in failure for failure in tally.failures)
