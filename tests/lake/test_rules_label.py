"""Labels: which of several wins, and that silence is no label."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from lake.rules.label import COLUMNS, Labelled, choose
from lake.schemas.tables import TABLES

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
        "key_id": "k1",
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


def frames(**tables: list[dict[str, Any]]) -> dict[str, pl.DataFrame]:
    full = {"requests": [request(1)], **tables}
    out: dict[str, pl.DataFrame] = {}
    for name, columns in COLUMNS.items():
        schema = pl.DataFrame(TABLES[name].empty_table()).select(columns).schema
        rows = [{column: row.get(column) for column in columns} for row in full.get(name, [])]
        out[name] = pl.DataFrame(rows, schema=schema)
    return out


def label(policy: Any = "drop", stale: Any = None, **tables: list[dict[str, Any]]) -> Labelled:
    return choose(frames(**tables), policy, stale)


def only(policy: Any = "drop", **tables: list[dict[str, Any]]) -> dict[str, Any]:
    (best,) = label(policy, **tables).chosen.to_dicts()
    return best


def dropped(labelled: Labelled) -> dict[str, str]:
    return dict(labelled.rejects.select("source_id", "reason").iter_rows())


SYNTHETIC: dict[str, Any] = {
    "synthetic_id": "s1", "timestamp": T0, "tool_id": "slack", "question": "팀 메신저 추천?", "answer": "made",
    "source": "llm:base",
}  # fmt: skip


def teacher(n: int, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "label_id": f"t{n}", "timestamp": T0 + timedelta(minutes=n), "request_id": "q1", "answer": f"taught {n}",
        "tools": ["slack"], "model": "large", "finish_reason": "stop",
    }  # fmt: skip
    return row | changes


def test_each_source_gives_way_to_the_better_one() -> None:
    thumb, better = feedback(1, thumb="up", key_id="k2"), feedback(2, corrected_answer=" corrected ", key_id="k3")
    by_question, by_request = review(1, "팀메신저 추천!"), review(0, "팀 메신저 추천", "q1")
    liked = only(feedback=[thumb])
    assert (liked["label_source"], liked["answer"], liked["label_ids"]) == ("positive_feedback", None, ["f1"])
    assert (liked["key_id"], liked["label_key"]) == ("k1", "k2")
    made = only(feedback=[thumb], synthetic=[SYNTHETIC])
    assert (made["table"], made["source_id"], made["label_model"]) == ("synthetic", "s1", "base")
    taught = only(feedback=[thumb], synthetic=[SYNTHETIC], teacher_labels=[teacher(1), teacher(2)])
    assert (taught["answer"], taught["label_source"], taught["label_model"]) == ("taught 2", "teacher", "large")
    corrected = only(feedback=[thumb, better], synthetic=[SYNTHETIC], teacher_labels=[teacher(1)])
    assert (corrected["answer"], corrected["label_source"], corrected["label_ids"]) == (
        "corrected",
        "correction",
        ["f2"],
    )
    assert corrected["label_key"] == "k3"
    golden = only(feedback=[thumb, better], reviews=[by_question])
    assert (golden["answer"], golden["label_source"], golden["tools"]) == ("golden 1", "golden", ["slack"])
    assert only(feedback=[thumb, better], reviews=[by_question, by_request])["answer"] == "golden 0"


def test_the_newest_review_and_judgement_count() -> None:
    assert only(reviews=[review(3), review(5), review(4)])["answer"] == "golden 5"
    changed = [feedback(1, thumb="up"), feedback(2, thumb="down")]
    for order in (changed, changed[::-1]):
        assert dropped(label(feedback=order)) == {"q1": "negative_feedback"}
    assert only(feedback=[feedback(1, score=5)])["label_source"] == "positive_feedback"
    assert dropped(label(feedback=[feedback(1, score=3)])) == {"q1": "no_label"}
    comment = feedback(9, comment="흠")  # says neither good nor bad, so what was said before holds
    assert only(feedback=[feedback(1, thumb="up"), comment])["label_source"] == "positive_feedback"


def test_reviewers_who_disagree_are_counted() -> None:
    two = [review(1) | {"reviewer": "a"}, review(2) | {"reviewer": "b", "tools": ["zoom"]}]
    assert label(reviews=two).facts["golden_conflicts"] == 1
    three = [*two, review(0) | {"reviewer": "c"}]
    assert label(reviews=three).facts["golden_conflicts"] == 0
    assert only(reviews=three)["answer"] == "golden 1"


@pytest.mark.parametrize("judged", [{"thumb": "down"}, {"score": 1}, {"thumb": "up", "score": 2}])
def test_a_bad_judgement_is_never_a_label(judged: dict[str, Any]) -> None:
    for policy in ("drop", "served"):
        assert dropped(label(policy, feedback=[feedback(1, **judged)])) == {"q1": "negative_feedback"}
    assert only(feedback=[feedback(1, **judged)], teacher_labels=[teacher(1)])["label_source"] == "teacher"


def test_silence_is_a_label_only_where_a_setting_says_so() -> None:
    assert dropped(label()) == {"q1": "no_label"}
    assert only("served")["label_source"] == "served"


def test_what_opted_out_is_never_a_label_and_leaves_no_text() -> None:
    out = label("served", requests=[request(1, "", stored=False), request(2)], reviews=[review(1, request_id="q1")])
    assert [one["source_id"] for one in out.chosen.to_dicts()] == ["q2"]
    (one,) = out.rejects.filter(pl.col("source_id") == "q1").to_dicts()
    assert (one["reason"], one["sample"]) == ("opted_out", "")


def test_the_newest_of_equal_requests_is_kept_the_others_are_counted() -> None:
    rows = [request(1), request(3, "팀 메신저  추천?"), request(2)]
    out = label(requests=rows, reviews=[review(9)])
    assert [one["source_id"] for one in out.chosen.to_dicts()] == ["q3"]
    assert dropped(out) == {"q1": "duplicate_question", "q2": "duplicate_question"}
    own = label(requests=rows, reviews=[review(9, request_id="q1")])
    assert [one["source_id"] for one in own.chosen.to_dicts()] == ["q1"]  # its own review outranks time


def test_labels_of_nothing_are_no_rows() -> None:
    lost = [feedback(1, "gone", thumb="up"), feedback(2, "gone", corrected_answer="x")]
    out = label("served", reviews=[review(1, "다른 질문"), review(2)], feedback=lost)
    assert [one["source_id"] for one in out.chosen.to_dicts()] == ["q1"]
    assert dropped(out) == {"r1": "no_request"}


def test_answers_that_the_catalogue_has_outgrown_are_no_labels() -> None:
    def stale(frame: pl.DataFrame, tools: str) -> pl.Series:
        return pl.Series(
            ["removed_tool" if "slack" in one else None for one in frame[tools].to_list()], dtype=pl.String
        )

    out = label(stale=stale, reviews=[review(1)])
    assert dropped(out) == {"r1": "stale_catalogue", "q1": "stale_catalogue"}
    assert out.facts["stale_golden"] == 1
    assert dropped(label(stale=stale, synthetic=[SYNTHETIC]))["s1"] == "stale_catalogue"
    still = label(stale=stale, reviews=[review(1)], feedback=[feedback(1, corrected_answer="x")])
    assert [one["label_source"] for one in still.chosen.to_dicts()] == ["correction"]


def test_rows_in_any_order_give_the_same() -> None:
    chance = random.Random(3)
    tables: dict[str, list[dict[str, Any]]] = {
        "requests": [request(n, f"질문 {n % 7}") for n in range(40)],
        "reviews": [review(n, f"질문 {n % 4}") for n in range(9)],
        "feedback": [feedback(n, f"q{n % 30}", thumb=chance.choice(["up", "down", None])) for n in range(60)],
        "teacher_labels": [teacher(n, request_id=f"q{n}") for n in range(5)],
        "synthetic": [SYNTHETIC | {"synthetic_id": f"s{n}", "question": f"질문 {n}"} for n in range(9)],
    }
    first = label(**tables)
    mixed = label(**{name: chance.sample(rows, len(rows)) for name, rows in tables.items()})
    assert_frame_equal(first.chosen, mixed.chosen)
    assert_frame_equal(first.rejects, mixed.rejects, check_row_order=False)
    assert len(first.chosen) + len(first.rejects) == 40 + 9  # every request and synthetic row is kept or counted
