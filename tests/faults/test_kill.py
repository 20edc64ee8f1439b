"""kill -9, short form; a writer that acknowledges before it writes is caught."""

from __future__ import annotations

from pathlib import Path

from tests.faults import kill
from tests.faults.harness import CI_SEED


def test_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path) -> None:
    tally = kill.run(12, CI_SEED, tmp_path)
    assert tally.failures == []
    assert tally.counts["kills"] == 12 and tally.counts["rows"] > 20 < tally.counts["acknowledged"]


def test_a_writer_that_acknowledges_too_early_is_caught(tmp_path: Path) -> None:
    tally = kill.run(4, CI_SEED, tmp_path, bug="early")
    assert tally.counts["lost"] and "acknowledged records lost" in tally.failures[0]
