"""Personal data, short form; a finder that is blind to one type, or that sees it everywhere, is caught."""

from __future__ import annotations

from pathlib import Path

from lake.privacy.mask import find
from lake.privacy.types import Span
from tests.faults import pii
from tests.faults.harness import CI_SEED


def test_structured_types_are_found(tmp_path: Path) -> None:
    tally = pii.run(30, CI_SEED, tmp_path)
    assert tally.failures == [] and tally.counts["spans"] == 30 * 14


def test_a_blind_finder_is_caught(tmp_path: Path) -> None:
    tally = pii.run(3, CI_SEED, tmp_path, finder=lambda text: [span for span in find(text) if span.kind != "card"])
    assert any("card: recall 0.00%" in failure for failure in tally.failures)


def test_a_finder_that_takes_all_is_caught(tmp_path: Path) -> None:
    tally = pii.run(3, CI_SEED, tmp_path, finder=lambda text: [Span(0, len(text), "name")])
    assert any("clean sentences hit" in failure for failure in tally.failures)
