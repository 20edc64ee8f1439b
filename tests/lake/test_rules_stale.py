"""Stale answers: a tool that went, has another name or another address; and nothing else."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from lake import house_style
from lake.catalog import load_catalog
from lake.rules.stale import Catalog, stale_reason, stale_rows
from lake.schemas.rows import Tool

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
SLACK = Tool("slack", "Slack", "메신저", "https://slack.com", aliases=("슬랙",))
ZOOM = Tool("zoom", "Zoom", "회의", "https://zoom.us")
WIKI = Tool("wiki", "Wiki", "문서", "https://wiki.example/Page_(tool)")
BARE = Tool("bare", "Bare", "주소가 없는 도구")
NOW = Catalog.of([SLACK, ZOOM, WIKI, BARE])


def say(tool: Tool, lang: str = "ko") -> str:
    return house_style.render(lang, tool.name, "여럿이 씁니다.", tool.url or None)


NONE = house_style.render("ko", None, "맞는 도구가 없습니다.", None)
CASES: list[tuple[list[str], str, str | None]] = [
    (["slack"], say(SLACK), None),
    (["slack"], say(SLACK, "en"), None),
    (["wiki"], say(WIKI), None),  # a bracket ends an address in running text
    (["bare"], say(BARE), None),
    ([], NONE, None),
    (["slack"], say(SLACK) + "/", None),
    (["slack"], say(replace(SLACK, name="슬랙")), None),  # an alias is a name
    (["slack", "zoom"], "Slack(https://slack.com)과 Zoom(https://zoom.us)이 있습니다.", None),
    (["slack"], "Slack은 https://slack.com 입니다. Zoom은 https://zoom.us 입니다.", None),
    (["slack"], "슬랙을 쓰세요", None),
    (["gone"], say(Tool("gone", "Gone", "", "https://gone.example")), "removed_tool"),
    (["slack", "gone"], "Slack과 Gone", "removed_tool"),
    ([], say(Tool("", "Gone", "")), "removed_tool"),  # nobody noted the id, the name tells
    ([], say(SLACK), None),
    (["slack"], say(replace(SLACK, name="Slick")), "renamed_tool"),
    (["slack"], "옛 이름으로만 부르는 답", "renamed_tool"),
    (["slack"], say(replace(SLACK, url="https://slack.example")), "changed_url"),
    (["slack"], say(replace(SLACK, url="https://zoom.us")), "changed_url"),  # another tool's
    (["bare"], say(replace(BARE, url="https://bare.example")), "changed_url"),
    (["slack"], "Slack은 https://slack.com/old 에 있습니다.", "changed_url"),
    ([], "https://nowhere.example 를 보세요", "changed_url"),
    (["wiki"], say(replace(WIKI, url="https://wiki.example/Page_(old)")), "changed_url"),
]


@pytest.mark.parametrize(("tools", "answer", "reason"), CASES)
def test_each_change_has_its_reason(tools: list[str], answer: str, reason: str | None) -> None:
    assert stale_reason(tools, answer, NOW) == reason
    assert stale_reason(tools, answer, NOW.tools) == reason


def test_rows_at_once_say_what_each_says_alone() -> None:
    chance = random.Random(7)
    rows = [chance.choice(CASES) for _ in range(400)]
    frame = pl.DataFrame({"tools": [row[0] for row in rows], "answer": [row[1] for row in rows]})
    assert stale_rows(frame, NOW).to_list() == [row[2] for row in rows]


def test_a_column_of_single_ids_nulls_and_no_rows() -> None:
    frame = pl.DataFrame({"tool_id": ["slack", "gone", None, ""], "answer": [say(SLACK), "Gone", NONE, NONE]})
    assert stale_rows(frame, NOW, tools="tool_id").to_list() == [None, "removed_tool", None, None]
    empty = pl.DataFrame({"tools": [[], []], "answer": [None, NONE]})
    assert stale_rows(empty, NOW).to_list() == [None, None]
    assert stale_rows(frame.clear(), NOW, tools="tool_id").to_list() == []


def sample_rows(name: str) -> pl.DataFrame:
    rows: list[dict[str, Any]] = [orjson.loads(line) for line in (SAMPLE / name).read_bytes().splitlines()]
    return pl.DataFrame({key: [row[key] for row in rows] for key in ("tools", "answer")})


@pytest.mark.parametrize("name", ["reviews.jsonl", "test.jsonl"])
def test_the_sample_is_fresh_until_its_catalogue_changes(name: str) -> None:
    tools = load_catalog(SAMPLE / "catalog.jsonl").tools
    frame = sample_rows(name)
    assert stale_rows(frame, Catalog.of(reversed(tools))).null_count() == len(frame)
    described = [replace(tool, description="다른 설명", tags=("새",)) for tool in tools]
    assert stale_rows(frame, Catalog.of(described)).null_count() == len(frame)
    changes = {
        "removed_tool": [tool for tool in tools if tool.id != "figma"],
        "renamed_tool": [replace(t, name="Figment", aliases=()) if t.id == "figma" else t for t in tools],
        "changed_url": [replace(t, url="https://figma.example") if t.id == "figma" else t for t in tools],
    }
    with_figma = frame.select(pl.col("tools").list.contains("figma")).to_series()
    for reason, changed in changes.items():
        got = stale_rows(frame, Catalog.of(changed))
        assert got.filter(with_figma).to_list() == [reason] * with_figma.sum()
        assert got.filter(~with_figma).null_count() == len(frame) - with_figma.sum()
