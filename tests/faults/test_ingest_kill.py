"""Ingest killed at its failpoints, short form; an ingester whose marks run ahead of its rows is caught."""

from __future__ import annotations

from pathlib import Path

from tests.faults import ingest_kill
from tests.faults.harness import CI_SEED


def test_a_kill_at_a_point_loses_and_doubles_nothing(tmp_path: Path) -> None:
    tally = ingest_kill.run(4, CI_SEED, tmp_path)
    assert tally.failures == []
    assert tally.counts["points"] >= ingest_kill.LEAST_POINTS and tally.counts["kills"] == 4


def test_marks_that_run_ahead_are_caught(tmp_path: Path) -> None:
    tally = ingest_kill.run(2, 0, tmp_path, bug="early")  # from the first point on
    assert any("does not close" in failure for failure in tally.failures)
