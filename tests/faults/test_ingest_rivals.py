"""Concurrent ingesters, short form; ingesters that append blindly are caught."""

from __future__ import annotations

from pathlib import Path

from tests.faults import ingest_rivals
from tests.faults.harness import CI_SEED


def test_rivals_make_one_table(tmp_path: Path) -> None:
    tally = ingest_rivals.run(2, CI_SEED, tmp_path, rivals=4)
    assert tally.failures == []
    assert tally.counts["rows"] == 24 and tally.counts["commits"] >= 8


def test_ingesters_that_append_blindly_are_caught(tmp_path: Path) -> None:
    tally = ingest_rivals.run(2, CI_SEED, tmp_path, rivals=3, bug="blind")
    assert any("stand twice" in failure or "failed" in failure for failure in tally.failures)
