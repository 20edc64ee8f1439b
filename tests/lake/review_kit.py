"""Rows of a small lake with something to review: what the tests of the review queue have in common."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from lake import house_style
from lake.schemas.records import RetrievedItem

T0 = datetime(2026, 1, 1, tzinfo=UTC)
URLS = {"Slack": "https://slack.com", "Zoom": "https://zoom.us", "Figma": "https://www.figma.com"}
QUESTIONS = [
    "팀에서 쓸 업무용 메신저",
    "표로 그래프를 그려 주는 곳",
    "사진을 자동으로 백업하는 방법",
    "영수증 찍으면 가계부에 넣어 주는 앱",
    "재고를 바코드로 세는 프로그램",
    "a vector editor that runs on Linux",
]


def answer(name: str | None, url: str | None = None) -> str:
    return house_style.render("ko", name, "여럿이 씁니다.", url or URLS.get(name or ""))


def items(*names: str, scores: tuple[float, ...] = (0.9, 0.5, 0.1)) -> list[dict[str, Any]]:
    return [
        asdict(RetrievedItem(rank, score, name.lower(), name, URLS.get(name, ""), f"{name} 설명", "", [], ""))
        | {"scores": {"dense": score, "lexical": None, "rerank": None}}
        for rank, (name, score) in enumerate(zip(names, scores, strict=False), start=1)
    ]


def request(n: int, question: str, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "request_id": f"q{n:03}", "timestamp": T0 + timedelta(minutes=n), "user_query": question, "lang": "ko",
        "retrieved_items": items("Slack", "Zoom"), "llm_response_content": answer("Slack"), "outcome": "answered",
        "model": "m1", "adapter": "a1", "segment": "w/1", "seq": n, "record_version": 3,
    }  # fmt: skip
    return row | changes


def review(n: int, question: str, reviewer: str = "kim", *, tools: tuple[str, ...] = ("slack",), **changes: Any) -> Any:
    row: dict[str, Any] = {
        "review_id": f"r{n:03}", "timestamp": T0 + timedelta(minutes=n), "question": question, "reviewer": reviewer,
        "answer": answer(tools[0].title() if tools else None), "tools": list(tools), "also": [], "segment": "w/1",
        "seq": n, "record_version": 3,
    }  # fmt: skip
    return row | changes


def feedback(n: int, request_id: str, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "feedback_id": f"f{n:03}", "timestamp": T0, "request_id": request_id, "segment": "w/1", "seq": n,
        "record_version": 3,
    }  # fmt: skip
    return row | changes


def taught(n: int, request_id: str, question: str, said: str) -> dict[str, Any]:
    return {
        "timestamp": T0, "label_id": f"l{n}", "run_id": "x", "request_id": request_id, "question": question,
        "answer": said, "model": "teacher",
    }  # fmt: skip


def synthetic(n: int, question: str, tool_id: str, said: str) -> dict[str, Any]:
    return {
        "synthetic_id": f"s{n}", "timestamp": T0, "run_id": "x", "tool_id": tool_id, "question": question,
        "answer": said, "lang": "ko", "source": "llm:m", "retrieved_items": [],
    }  # fmt: skip
