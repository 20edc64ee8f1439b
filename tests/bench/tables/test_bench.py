"""The bench of the tables runs and compares the same rows."""

from __future__ import annotations

from pathlib import Path

from tests.bench.run import load_bench


def test_it_measures_both_tables(tmp_path: Path) -> None:
    found = {one.figure: one for one in load_bench("tables").measure(tmp_path, 1, 12, 5)}
    assert found["rows"].value == 60
    assert found["files_after"].value < found["files_before"].value
    assert all(one.value > 0 for one in found.values())
