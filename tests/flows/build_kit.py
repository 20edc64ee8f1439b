"""A lake in a folder, its rows, and a build over it, for the tests of the build."""

from __future__ import annotations

import random
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from flows.steps.build import BuildConfig, BuildInputs, run_build
from lake import house_style
from lake.prompt import PromptBuilder
from lake.rules.depth import Lineage
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import Tool
from lake.tables import append
from tests.lake.question_words import WORDS as KOREAN

T0 = datetime(2026, 1, 1, tzinfo=UTC)
BUILDER = PromptBuilder(lambda text: len(text.split()), 200, 3)
SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
TOOLS = {
    "slack": RetrievedItem(1, 0.9, "slack", "Slack", "https://slack.com", "업무용 메신저입니다.", "", [], "협업"),
    "zoom": RetrievedItem(2, 0.8, "zoom", "Zoom", "https://zoom.us", "화상 회의 도구입니다.", "", [], "회의"),
}
CATALOG = [Tool(item.id, item.name, item.description, item.url, item.category) for item in TOOLS.values()]
CATALOG.append(Tool("notion", "Notion", "메모 도구입니다.", "https://notion.so", "메모"))
GOOD = house_style.render("ko", "Slack", "업무용 메신저입니다.", "https://slack.com")
WORDS = [*KOREAN, "백업", "노트", "차트", "코드", "리뷰", "서버", "결제", "재고"]


def stored(item: RetrievedItem) -> dict[str, Any]:
    return asdict(item) | {"scores": {"dense": 0.5, "lexical": None, "rerank": 0.7}}


def request(n: int, question: str, tools: tuple[str, ...] = ("slack", "zoom"), **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "request_id": f"q{n:03}",
        "timestamp": T0 + timedelta(minutes=n),
        "user_query": question,
        "retrieved_items": [stored(TOOLS[name]) for name in tools],
        "llm_response_content": GOOD,
        "outcome": "answered",
        "finish_reason": "stop",
        "segment": "w/1",
        "seq": n,
        "record_version": 1,
    }
    return row | changes


def review(n: int, question: str, answer: str = GOOD, tools: tuple[str, ...] = ("slack",)) -> dict[str, Any]:
    return {
        "review_id": f"r{n:03}",
        "timestamp": T0 + timedelta(minutes=n),
        "question": question,
        "answer": answer,
        "tools": list(tools),
        "also": [],
        "segment": "w/1",
        "seq": n,
        "record_version": 1,
    }


def feedback(n: int, request_id: str, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "feedback_id": f"f{n:03}", "timestamp": T0, "request_id": request_id, "thumb": None, "score": None,
        "corrected_answer": None, "segment": "w/1", "seq": n, "record_version": 1,
    }  # fmt: skip
    return row | changes


def wishes(n: int, seed: int = 1) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.sample(WORDS, 6)) for _ in range(n)]


class Lake:
    """A lake in a folder, with a build over it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tools = CATALOG
        self.lineage = Lineage(frozenset({"base"}))
        self.test = root / "test.jsonl"
        root.mkdir(exist_ok=True)
        self.test.write_bytes(orjson.dumps({"question": "영수증을 찍으면 가계부에 넣어 주는 앱"}) + b"\n")

    def add(self, **tables: list[dict[str, Any]]) -> None:
        for name, rows in tables.items():
            append(self.root / "lake", name, rows)

    def build(self, **config: Any) -> dict[str, Any]:
        given = BuildInputs(BUILDER, self.test, self.tools, self.lineage, template_sha256="t")
        return run_build(
            self.root / "lake", self.root / "datasets", given, BuildConfig(**config),
            progress_path=self.root / "progress.jsonl",
        )  # fmt: skip


def sides(report: dict[str, Any]) -> dict[str, str]:
    rows = pq.read_table(Path(report["path"]) / "rows.parquet").to_pylist()
    return {row["question"]: row["split"] for row in rows}


def rejected(report: dict[str, Any]) -> dict[str, str]:
    lines = (Path(report["path"]) / "rejects.jsonl").read_bytes().splitlines()
    return {one["source_id"]: one["reason"] for one in map(orjson.loads, lines)}
