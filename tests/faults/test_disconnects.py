"""Clients that go away, short form; a gateway that forgets them, and one that never notices, are caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import disconnects
from tests.faults.harness import CI_SEED

pytestmark = pytest.mark.slow


def test_nothing_is_wedged_leaked_or_unlogged(tmp_path: Path) -> None:
    tally = disconnects.run(300, CI_SEED, tmp_path)
    assert tally.failures == []
    assert tally.counts["calls afterwards"] == 200 and tally.counts["records"] > 200
    assert all(tally.counts[f"left at {stage}"] > 20 for stage in disconnects.STAGES)
    assert tally.counts["client_gone"] > 20 and tally.counts["partial answers"] > 5


@pytest.mark.parametrize(
    ("bug", "what"), [("forgets", "no response half"), ("deaf", "streams ended with their reader")]
)
def test_a_planted_bug_is_caught(tmp_path: Path, bug: str, what: str) -> None:
    tally = disconnects.run(120, CI_SEED, tmp_path, bug=bug)
    assert any(what in failure for failure in tally.failures)
