"""Damaged files of table and journal, short form; a reader that skips what it can't read is caught."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lake.journal import blocks, index
from lake.journal.frames import Damage, bulk_scan, scan
from tests.faults import lake_damage
from tests.faults.harness import CI_SEED


def test_damage_is_an_error_or_is_counted(tmp_path: Path) -> None:
    tally = lake_damage.run(16, CI_SEED, tmp_path)
    assert tally.failures == []
    assert tally.counts["survived"] >= 3 and tally.counts["refused"] >= 1


def test_a_reader_that_skips_damage_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(real: Any) -> Any:
        return lambda data, start=0: (item for item in real(data, start) if not isinstance(item, Damage))

    monkeypatch.setattr(blocks, "bulk_scan", deaf(bulk_scan))
    monkeypatch.setattr(index, "scan", deaf(scan))
    assert any("without a word" in failure for failure in lake_damage.run(40, CI_SEED, tmp_path).failures)
