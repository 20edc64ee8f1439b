"""A full disk, short form; a gateway that answers without a record is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import disk_full
from tests.faults.harness import CI_SEED

pytestmark = pytest.mark.slow


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    if why := disk_full.why_not(tmp_path):
        pytest.skip(f"{why}; tests/lake/test_journal_faults.py has a full disk by RLIMIT_FSIZE everywhere")
    return tmp_path


def test_it_is_told_costs_nothing_and_heals(scratch: Path) -> None:
    tally = disk_full.run(2, CI_SEED, scratch, timed=False)
    assert tally.failures == []
    assert tally.counts["log_unavailable"] > 10 and tally.counts["answered"] > 20


def test_a_gateway_that_answers_without_a_record_is_caught(scratch: Path) -> None:
    tally = disk_full.run(1, CI_SEED, scratch, bug="heedless", timed=False)
    assert any("without a whole record" in failure for failure in tally.failures)
