"""The journal against its model, short form; a lying disk and a scanner that skips damage are caught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lake.journal.frames import Damage, Frame, scan
from tests.faults import journal_model
from tests.faults.harness import CI_SEED


def test_the_journal_is_what_the_model_says(tmp_path: Path) -> None:
    tally = journal_model.run(30, CI_SEED, tmp_path)
    assert tally.failures == [] and tally.counts["runs"] == 30


def test_a_writer_that_acknowledges_before_the_sync_is_caught(tmp_path: Path) -> None:
    tally = journal_model.run(50, CI_SEED, tmp_path, disk=journal_model.LyingDisk)
    assert "lost: " in tally.failures[0] and "power_cut" in tally.failures[0]


def skips_damage(data: bytes) -> Iterator[Frame | Damage]:
    """Yields the good frames and says nothing of the rest."""
    return (item for item in scan(data) if isinstance(item, Frame))


def test_a_scanner_that_skips_damage_is_caught(tmp_path: Path) -> None:
    tally = journal_model.run(50, CI_SEED, tmp_path, scanner=skips_damage)
    assert "is not reported" in tally.failures[0] or "the index counts" in tally.failures[0]
