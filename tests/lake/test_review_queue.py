"""The review queue over real tables: what is in it, in which order, what leaves it and what comes back."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lake.review_queue import COLUMNS, item_id, open_items, with_context
from lake.rules.stale import Catalog
from lake.schemas.rows import EvalCase, Tool
from lake.tables import append
from tests.lake.review_kit import QUESTIONS, answer, feedback, items, request, review, synthetic, taught

TOOLS = [Tool("slack", "Slack", "메신저", "https://slack.com"), Tool("zoom", "Zoom", "회의", "https://zoom.us")]
NOW = Catalog.of(TOOLS)


def queue(lake: Path, **options: Any) -> dict[str, dict[str, Any]]:
    found = open_items(lake, **options)
    assert found.items.schema == pl.Schema(COLUMNS)
    assert found.counts["open"] >= len(found.items)
    return {row["question"]: row for row in found.items.to_dicts()}


def test_an_empty_lake_has_an_empty_queue(tmp_path: Path) -> None:
    assert queue(tmp_path, catalog=NOW) == {}


def test_each_signal_is_a_reason_and_each_factor_is_in_the_row(tmp_path: Path) -> None:
    down, corrected, mixed, teacher, loose, several = QUESTIONS
    append(
        tmp_path,
        "requests",
        [
            request(1, down),
            request(2, corrected),
            request(3, mixed),
            request(4, mixed),
            request(5, teacher),
            request(6, loose, llm_response_content=answer("Figma")),
            request(7, several),
            request(8, several, llm_response_content=answer("Zoom")),
            request(9, several, llm_response_content=answer("Zoom").replace("여럿이", "혼자서")),
        ],
    )
    append(
        tmp_path,
        "feedback",
        [
            feedback(1, "q001", thumb="down"),
            feedback(2, "q002", corrected_answer="추천: Zoom"),
            feedback(3, "q003", score=5),
            feedback(4, "q004", score=1),
        ],
    )
    append(
        tmp_path,
        "teacher_labels",
        [taught(1, "q005", teacher, answer("Zoom")), taught(2, "q007", several, answer("Slack"))],
    )
    found = queue(tmp_path)
    assert {question: row["reasons"] for question, row in found.items()} == {
        down: ["thumb_down"],
        corrected: ["thumb_down"],
        mixed: ["thumb_down", "conflicting_feedback"],
        teacher: ["teacher_differs"],
        loose: ["ungrounded"],
        several: ["several_answers"],  # two tools, three wordings; the teacher said what was served
    }
    row = found[mixed]
    assert (row["asked"], row["up"], row["down"], row["request_id"]) == (2, 1, 1, "q004")
    assert row["disagreement"] == pytest.approx(1 - (1 - 0.9 * 0.5) * (1 - 0.6))
    assert row["traffic"] == pytest.approx(1 + 1.584963)
    assert row["uncertainty"] == pytest.approx(1 - 0.9 * (0.9 - 0.5) / 0.9)
    for row in found.values():
        assert row["value"] == pytest.approx(row["disagreement"] * row["traffic"] * row["uncertainty"], abs=2e-6)
        assert row["item_id"] == item_id(row["question"])
    assert found[several]["answers"] == 2


def test_every_factor_raises_the_value(tmp_path: Path) -> None:
    plain, often, close, single, nothing, opted_out = QUESTIONS
    append(
        tmp_path,
        "requests",
        [
            request(1, plain),
            *(request(10 + n, often) for n in range(7)),
            request(2, close, retrieved_items=items("Slack", "Zoom", scores=(12.0, 11.9))),  # BM25, not 0..1
            request(3, single, retrieved_items=items("Slack")),
            request(4, nothing, retrieved_items=[], llm_response_content=None),
            request(5, opted_out, stored=False),
            request(6, "", stored=False),
        ],
    )
    found = queue(tmp_path)
    assert opted_out not in found and "" not in found
    value = {question: row["value"] for question, row in found.items()}
    assert value[often] > value[plain] and value[close] > value[plain]
    assert found[often]["traffic"] == 4.0
    assert found[close]["uncertainty"] == pytest.approx(1 - 0.9 * 0.1 / 12, abs=1e-6)
    assert (found[single]["uncertainty"], found[nothing]["uncertainty"]) == (0.5, 1.0)
    assert list(value.values()) == sorted(value.values(), reverse=True)


def test_near_duplicates_wait_behind_the_best_of_them(tmp_path: Path) -> None:
    texts = [
        "여럿이 함께 고치는 화면 시안 도구",
        "여럿이 함께 고치는 화면시안 도구?",
        "여럿이 함께 고치는 화면 시안 도구가",
    ]
    append(tmp_path, "requests", [request(n, text) for n, text in enumerate([*texts, QUESTIONS[3]])])
    append(tmp_path, "feedback", [feedback(1, "q002", thumb="down")])
    found = open_items(tmp_path)
    first, other = found.items.to_dicts()
    assert (first["question"], first["asked"], first["near"]) == (texts[2], 3, 1)  # 0 and 1 have the same key
    assert first["traffic"] == 3.0 and other["near"] == 0
    assert found.counts["near_a_better_item"] == 1
    append(tmp_path, "reviews", [review(1, texts[2])])
    assert set(queue(tmp_path)) == {QUESTIONS[3]}  # what is near a reviewed question leaves with it
    case = EvalCase("t1", QUESTIONS[3] + "!", "ko", answer("Slack"), ["slack"], [])
    assert open_items(tmp_path, tests=[case]).counts["near_a_settled_question"] == 2


def test_reviewed_questions_leave_and_conflicts_stay(tmp_path: Path) -> None:
    done, disputed, settled = QUESTIONS[:3]
    append(tmp_path, "requests", [request(n, text) for n, text in enumerate((done, disputed, settled))])
    append(
        tmp_path,
        "reviews",
        [
            review(1, done + "?"),
            review(2, disputed), review(3, disputed, "lee", tools=("zoom",)),
            review(4, settled), review(5, settled, "lee", tools=("zoom",)), review(6, settled, "han", tools=("zoom",)),
        ],
    )  # fmt: skip
    found = queue(tmp_path)
    assert {question: row["reasons"] for question, row in found.items()} == {disputed: ["reviewer_conflict"]}
    assert found[disputed]["reviewers"] == ["kim", "lee"]
    twice = queue(tmp_path, reviewers=2)
    assert {question: row["reasons"] for question, row in twice.items()} == {
        disputed: ["reviewer_conflict"],
        done: ["second_opinion"],
    }
    assert set(queue(tmp_path, reviewers=4)) == {done, disputed, settled}


def test_stale_answers_come_back_with_the_reason_until_they_are_reviewed_again(tmp_path: Path) -> None:
    asked, unasked, made, held = QUESTIONS[:4]
    append(tmp_path, "requests", [request(1, asked), request(2, made)])
    append(tmp_path, "reviews", [review(1, asked), review(2, unasked, tools=("zoom",))])
    append(tmp_path, "synthetic", [synthetic(1, made, "zoom", answer("Zoom"))])
    case = EvalCase("t1", held, "ko", answer("Zoom"), ["zoom"], [])
    assert set(queue(tmp_path, catalog=NOW, tests=[case])) == {made}
    moved = Catalog.of([TOOLS[0], Tool("zoom", "Zoom", "회의", "https://zoom.example")])
    found = queue(tmp_path, catalog=moved, tests=[case])
    assert set(found) == {unasked, made, held}
    assert all(row["reasons"] == ["stale_catalogue:changed_url"] for row in found.values())
    assert (found[unasked]["asked"], found[unasked]["request_id"], found[unasked]["lang"]) == (0, None, "ko")
    assert all(row["stale_answer"] == answer("Zoom") for row in found.values())
    assert found[made]["request_id"] == "q002"
    fresh = answer("Zoom", "https://zoom.example")
    append(tmp_path, "reviews", [review(9, text, tools=("zoom",), answer=fresh) for text in (unasked, held)])
    assert set(queue(tmp_path, catalog=moved, tests=[case])) == {made}


def test_an_answered_request_stands_for_the_question(tmp_path: Path) -> None:
    failed = {"llm_response_content": None, "outcome": "llm_error"}
    append(tmp_path, "requests", [request(1, QUESTIONS[0]), request(2, QUESTIONS[0], **failed)])
    (row,) = with_context(tmp_path, open_items(tmp_path).items).to_dicts()
    assert (row["request_id"], row["suggestion"], row["suggestion_model"]) == ("q001", answer("Slack"), "m1")
    assert [item["id"] for item in row["retrieved_items"]] == ["slack", "zoom"]


def test_the_order_of_rows_does_not_matter_and_a_limit_cuts_the_end(tmp_path: Path) -> None:
    chance = random.Random(3)
    rows = [request(n, chance.choice(QUESTIONS) + " " * chance.randrange(2)) for n in range(60)]
    said = [feedback(n, f"q{chance.randrange(60):03}", thumb=chance.choice(["up", "down"])) for n in range(20)]
    tables = []
    for number in range(2):
        chance.shuffle(rows)
        chance.shuffle(said)
        append(tmp_path / str(number), "requests", rows)
        append(tmp_path / str(number), "feedback", said)
        tables.append(open_items(tmp_path / str(number)).items)
    assert tables[0].equals(tables[1])
    assert open_items(tmp_path / "0", limit=2).items.equals(tables[0].head(2))
    assert open_items(tmp_path / "0", pool=3).counts["beyond_pool"] == 3
