"""SIGHUP, switches and SIGTERM under load, short form; an end that waits for nobody is caught."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.faults import signals
from tests.faults.harness import CI_SEED

pytestmark = pytest.mark.slow


def test_nothing_is_dropped(tmp_path: Path) -> None:
    tally = signals.run(2, CI_SEED, tmp_path)
    assert tally.failures == []
    assert tally.counts["ends"] == 2 and tally.counts["replies"] > 10 and tally.counts["hangups"]


def test_an_end_that_waits_for_nobody_is_caught(tmp_path: Path) -> None:
    tally = signals.run(1, CI_SEED, tmp_path, ending=signal.SIGKILL)
    assert any("exit code -9" in failure for failure in tally.failures)
