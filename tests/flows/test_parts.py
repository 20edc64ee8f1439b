"""The parts that steps open: test cases that the catalogue still carries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flows.steps.parts import fresh_cases, read_cases
from lake.catalog import load_catalog
from lake.errors import DatasetError

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"


def test_stale_cases_are_left_out_and_counted() -> None:
    cases, tools = read_cases(SAMPLE / "test.jsonl"), load_catalog(SAMPLE / "catalog.jsonl").tools
    assert fresh_cases(cases, tools) == (cases, {})
    changed = [replace(tool, url="https://figma.example") if tool.id == "figma" else tool for tool in tools]
    changed = [tool for tool in changed if tool.id != "sketch"]
    fresh, stale = fresh_cases(cases, changed)
    lost = {name: sum(name in case.tools for case in cases) for name in ("figma", "sketch")}
    assert stale == {"changed_url": lost["figma"], "removed_tool": lost["sketch"]} and all(lost.values())
    assert fresh == [case for case in cases if not {"figma", "sketch"} & set(case.tools)]
    with pytest.raises(DatasetError, match="belong together"):
        fresh_cases([case for case in cases if "figma" in case.tools], changed)
