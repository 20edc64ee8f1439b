"""Power cuts, short form; a writer that acknowledges before the sync is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import power_cut
from tests.faults.harness import CI_SEED


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    if why := power_cut.why_not(tmp_path):
        pytest.skip(f"{why}; test_crash_replay covers the writer's own order of calls everywhere")
    return tmp_path


def test_nothing_acknowledged_is_lost(scratch: Path) -> None:
    tally = power_cut.run(10, CI_SEED, scratch)
    assert tally.failures == []
    assert tally.counts["sync cuts"] >= 4 and tally.counts["acknowledged"] > 20 and tally.counts["sync lost"] == 0


def test_a_writer_without_fdatasync_is_caught(scratch: Path) -> None:
    tally = power_cut.run(6, CI_SEED, scratch, bug="no_sync")
    assert tally.counts["sync lost"] and any("acknowledged records lost" in line for line in tally.failures)
