"""Rejects in the lake: samples are masked before they are cut, each is stored once."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.steps.run_rows import store_rejects
from lake.schemas.rows import Reject
from lake.tables import scan

LONG = "가" * 494 + " 010-1234-5678"


@pytest.mark.parametrize(("off", "end"), [((), "(PHON"), (("phone",), "010-1")])
def test_samples_are_masked_before_they_are_cut(tmp_path: Path, off: tuple[str, ...], end: str) -> None:
    rejects = [Reject("q1", "too_long", LONG), Reject("q2", "empty")]
    assert store_rejects(tmp_path, "r1", "teach", rejects, off) == 2
    assert store_rejects(tmp_path, "r1", "teach", rejects, off) == 0
    samples = scan(tmp_path, "rejects").collect()["sample"].to_list()
    assert sorted(samples) == ["", LONG[:495] + end]
