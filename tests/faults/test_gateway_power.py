"""A power cut under a gateway, short form; a gateway that answers before its records are synced is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import gateway_power, power_cut
from tests.faults.harness import CI_SEED

pytestmark = pytest.mark.slow


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    if why := power_cut.why_not(tmp_path):
        pytest.skip(f"{why}; test_gateway_kill covers what a kill alone shows")
    return tmp_path


def test_no_delivered_answer_is_lost(scratch: Path) -> None:
    tally = gateway_power.run(1, CI_SEED, scratch)
    assert tally.failures == [] and tally.counts["replies"] > 5


def test_a_gateway_that_answers_too_early_is_caught(scratch: Path) -> None:
    assert "half is lost" in gateway_power.run(1, CI_SEED, scratch, bug="early").failures[0]
