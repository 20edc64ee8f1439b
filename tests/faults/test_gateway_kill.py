"""kill -9 of a gateway, short form; a gateway that answers before its records are written is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import gateway_kill
from tests.faults.harness import CI_SEED

pytestmark = pytest.mark.slow


def test_no_delivered_answer_is_lost(tmp_path: Path) -> None:
    tally = gateway_kill.run(2, CI_SEED, tmp_path)
    assert tally.failures == []
    assert tally.counts["kills"] == 2 and tally.counts["replies"] > 10


def test_a_gateway_that_answers_too_early_is_caught(tmp_path: Path) -> None:
    tally = gateway_kill.run(1, CI_SEED, tmp_path, bug="early")
    assert tally.counts["lost"] and "half is lost" in tally.failures[0]
