"""Labels: which of several wins, and that silence is no label."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lake.rules.label import Candidate, one_per_question, request_candidates, synthetic_candidates

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def request(n: int, question: str = "팀 메신저 추천", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "request_id": f"q{n}",
        "timestamp": T0 + timedelta(minutes=n),
        "user_query": question,
        "retrieved_items": [],
        "llm_response_content": f"served {n}",
        "outcome": "answered",
        "finish_reason": "stop",
        "prompt_sha256": None,
    }
    return row | changes


def review(n: int, question: str = "팀 메신저 추천", request_id: str | None = None) -> dict[str, Any]:
    return {
        "review_id": f"r{n}",
        "timestamp": T0 + timedelta(minutes=n),
        "request_id": request_id,
        "question": question,
        "answer": f"golden {n}",
        "tools": ["slack"],
    }


def feedback(n: int, request_id: str = "q1", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "feedback_id": f"f{n}",
        "timestamp": T0 + timedelta(minutes=n),
        "request_id": request_id,
        "thumb": None,
        "score": None,
        "corrected_answer": None,
    }
    return row | changes


def only(**tables: Any) -> Candidate:
    candidates, _ = request_candidates(
        tables.get("requests", [request(1)]),
        tables.get("reviews", []),
        tables.get("feedback", []),
        tables.get("policy", "drop"),
    )
    made = synthetic_candidates(tables.get("synthetic", []))
    kept, _ = one_per_question([*candidates, *made])
    (best,) = kept
    return best


SYNTHETIC: dict[str, Any] = {
    "synthetic_id": "s1",
    "timestamp": T0,
    "tool_id": "slack",
    "question": "팀 메신저 추천?",
    "answer": "made",
    "retrieved_items": [],
}


def test_each_source_gives_way_to_the_better_one() -> None:
    thumb, better = feedback(1, thumb="up"), feedback(2, corrected_answer=" corrected ")
    by_question, by_request = review(1, "팀메신저 추천!"), review(0, "팀 메신저 추천", "q1")
    assert (only(feedback=[thumb]).answer, only(feedback=[thumb]).label_source) == ("served 1", "positive_feedback")
    assert only(feedback=[thumb], synthetic=[SYNTHETIC]).label_source == "synthetic"
    corrected = only(feedback=[thumb, better], synthetic=[SYNTHETIC])
    assert (corrected.answer, corrected.label_source, corrected.label_ids) == ("corrected", "correction", ["f2"])
    golden = only(feedback=[thumb, better], reviews=[by_question])
    assert (golden.answer, golden.label_source, golden.tools) == ("golden 1", "golden", ["slack"])
    assert only(feedback=[thumb, better], reviews=[by_question, by_request]).answer == "golden 0"


def test_the_newest_review_and_judgement_count() -> None:
    assert only(reviews=[review(3), review(5), review(4)]).answer == "golden 5"
    changed = [feedback(1, thumb="up"), feedback(2, thumb="down")]
    assert only(feedback=changed).no_label_reason == "negative_feedback"
    assert only(feedback=changed[::-1]).label_source is None
    assert only(feedback=[feedback(1, score=5)]).label_source == "positive_feedback"
    assert only(feedback=[feedback(1, score=3)]).no_label_reason == "no_label"


@pytest.mark.parametrize("judged", [{"thumb": "down"}, {"score": 1}, {"thumb": "up", "score": 2}])
def test_a_bad_judgement_is_never_a_label(judged: dict[str, Any]) -> None:
    for policy in ("drop", "served"):
        got = only(feedback=[feedback(1, **judged)], policy=policy)
        assert (got.label_source, got.no_label_reason) == (None, "negative_feedback")


def test_silence_is_a_label_only_where_a_setting_says_so() -> None:
    assert only().label_source is None
    assert only(policy="served").label_source == "served"


def test_the_newest_of_equal_requests_is_kept_the_others_are_counted() -> None:
    rows = [request(1), request(3, "팀 메신저  추천?"), request(2)]
    candidates, unused = request_candidates(rows, [review(9)], [], "drop")
    kept, rejects = one_per_question(candidates)
    assert [one.source_id for one in kept] == ["q3"]
    assert {(one.source_id, one.reason) for one in rejects} == {
        ("q1", "duplicate_question"),
        ("q2", "duplicate_question"),
    }
    assert unused == []
    labelled, _ = request_candidates(rows, [review(9, request_id="q1")], [], "drop")
    assert one_per_question(labelled)[0][0].source_id == "q1"  # its own review outranks time


def test_reviews_of_nothing_are_counted() -> None:
    _, unused = request_candidates([request(1)], [review(1, "다른 질문"), review(2)], [], "drop")
    assert [(one.source_id, one.reason) for one in unused] == [("r1", "no_request")]
