"""A disk that hangs, short form; a gateway that does not wait for its disk is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import disk_hang, power_cut
from tests.faults.harness import CI_SEED

pytestmark = pytest.mark.slow


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    if why := power_cut.why_not(tmp_path):
        pytest.skip(f"{why}; tests/lake/test_journal_writer.py has a sync that hangs everywhere")
    return tmp_path


def test_it_holds_up_nobody_and_heals(scratch: Path) -> None:
    tally = disk_hang.run(1, CI_SEED, scratch)
    assert tally.failures == []
    assert tally.counts["log_unavailable"] >= 6 and tally.counts["answered"] > 12


def test_a_gateway_that_does_not_wait_is_caught(scratch: Path) -> None:
    tally = disk_hang.run(1, CI_SEED, scratch, bug="early")
    assert any("while the disk hung" in failure for failure in tally.failures)
