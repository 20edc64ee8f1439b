"""Damaged journals and ingest, short form; a quarantine that keeps nothing is caught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.faults import quarantine
from tests.faults.harness import CI_SEED


def test_damage_is_kept_and_the_rest_is_taken_once(tmp_path: Path) -> None:
    tally = quarantine.run(12, CI_SEED, tmp_path)
    assert tally.failures == []
    assert tally.counts["rows"] > 20 and tally.counts["quarantined"] > 5


def test_a_quarantine_that_keeps_nothing_is_caught(tmp_path: Path) -> None:
    def forget(*_: Any, **__: Any) -> bool:
        return False

    assert quarantine.run(4, CI_SEED, tmp_path, keep=forget).failures
