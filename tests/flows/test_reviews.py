"""Reviews in and out over real tables and a real journal: formats, originals, idempotence, reasons."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.settings import FlowSettings
from flows.steps.review_queue import run_export
from flows.steps.reviews import run_reviews
from flows.steps.stage import StageContext
from lake.errors import DatasetError, InputError
from lake.ingest import ingest
from lake.review_formats import FORMATS
from lake.review_leases import ReviewLeases
from lake.settings import LakeSettings
from lake.tables import append, scan
from serving.settings import ServingSettings
from tests.lake.review_kit import QUESTIONS, answer, feedback, request, synthetic
from tests.lake.test_review_formats import answered

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CATALOG = [
    {"id": "slack", "name": "Slack", "description": "메신저", "url": "https://slack.com"},
    {"id": "zoom", "name": "Zoom", "description": "회의", "url": "https://zoom.us"},
]


@pytest.fixture
def stage(tmp_path: Path) -> StageContext:
    (tmp_path / "catalog.jsonl").write_bytes(b"\n".join(map(orjson.dumps, CATALOG)))
    case = {"id": "t1", "question": "시험 문제", "lang": "ko", "answer": answer("Slack"), "tools": ["slack"]}
    (tmp_path / "test.jsonl").write_bytes(orjson.dumps(case))
    flows = FlowSettings(catalog=tmp_path / "catalog.jsonl", test_set=tmp_path / "test.jsonl")
    said: list[str] = []
    return StageContext(
        "run", "reviews", LakeSettings(data_dir=tmp_path / "data"), ServingSettings(), flows, said.append
    )


def reviews(stage: StageContext) -> list[dict[str, Any]]:
    assert ingest(stage.lake, NOW).total.closes
    return scan(stage.lake.lake_dir, "reviews").collect().sort("seq").to_dicts()


def write(stage: StageContext, *rows: Any) -> str:
    path = stage.lake.data_dir.parent / "in.jsonl"
    path.write_bytes(b"\n".join(row if isinstance(row, bytes) else orjson.dumps(row) for row in rows))
    return str(path)


@pytest.mark.parametrize("form", FORMATS)
def test_the_queue_goes_out_and_the_answers_come_into_the_lake(stage: StageContext, form: str, tmp_path: Path) -> None:
    lake_dir = stage.lake.lake_dir
    append(lake_dir, "requests", [request(1, QUESTIONS[0]), request(2, QUESTIONS[1])])
    append(lake_dir, "feedback", [feedback(1, "q002", thumb="down")])
    append(lake_dir, "synthetic", [synthetic(1, QUESTIONS[2], "gone", answer("Gone"))])
    file = tmp_path / f"queue.{form}"
    report = run_export(stage, form, str(file), None, 1)
    assert (report["exported"], report["offered"], report["queue"]["open"]) == (3, 3, 3)
    assert report["reasons"] == {"stale_catalogue:removed_tool": 1, "thumb_down": 1}
    best = ReviewLeases(stage.lake.review_leases).lease_next("kim", NOW)
    assert best is not None
    untouched = run_reviews(stage, str(file), form)
    assert untouched["unanswered"] == 3 and "journalled" not in untouched
    file.write_bytes(answered(form, file.read_bytes(), answer("Zoom"), ["zoom"], "kim"))
    assert run_reviews(stage, str(file), form)["journalled"] == 3
    stored = {row["question"]: row for row in reviews(stage)}
    assert set(stored) == set(QUESTIONS[:3])
    row = stored[QUESTIONS[1]]
    assert (row["answer"], row["tools"], row["reviewer"], row["source"]) == (answer("Zoom"), ["zoom"], "kim", form)
    assert (row["request_id"], row["original_request_id"], row["original_model"]) == ("q002", "q002", "m1")
    assert (row["original_answer"], row["original_adapter"]) == (answer("Slack"), "a1")
    assert stored[QUESTIONS[2]]["original_answer"] is None  # nobody had asked it
    again = run_reviews(stage, str(file), form)
    assert again["already_there"] == 3 and "journalled" not in again
    assert run_export(stage, form, str(file), None, 1)["exported"] == 0
    assert ReviewLeases(stage.lake.review_leases).counts(NOW)["open"] == 0


def test_the_original_is_found_by_request_by_question_or_in_the_file(stage: StageContext) -> None:
    append(
        stage.lake.lake_dir,
        "requests",
        [
            request(1, QUESTIONS[0], model="old"),
            request(2, QUESTIONS[0], llm_response_content=answer("Zoom"), model="new"),
            request(3, QUESTIONS[0], llm_response_content=None),
            request(4, "", stored=False, llm_response_content=None),
        ],
    )
    file = write(
        stage,
        {"request_id": "q001", "answer": "a", "reviewer": "kim"},  # the question is the request's
        {"question": QUESTIONS[0], "answer": "b"},
        {"question": "처음 보는 질문", "answer": "c", "model_answer": "m", "model": "theirs", "request_id": "gone"},
        {"question": "opted out", "request_id": "q004", "answer": "d"},
    )
    report = run_reviews(stage, file)
    assert (report["journalled"], report["with_original"], report["reasons"]) == (3, 3, {"opted_out": 1})
    first, second, third = reviews(stage)
    assert (first["question"], first["original_answer"], first["original_model"]) == (
        QUESTIONS[0],
        answer("Slack"),
        "old",
    )
    assert (second["request_id"], second["original_request_id"], second["original_model"]) == (None, "q002", "new")
    assert (third["original_answer"], third["original_model"], third["original_request_id"]) == ("m", "theirs", "gone")


def test_every_bad_line_is_counted_with_its_reason(stage: StageContext) -> None:
    good = {"question": "메신저?", "answer": "a"}
    bad: list[tuple[Any, str]] = [
        (b"{", "not_json"),
        ({"answer": "a"}, "bad_question"),
        ({"question": 3, "answer": "a"}, "bad_question"),
        ({"question": "메신저?"}, "no_answer"),
        ({"question": "메신저?", "answer": " "}, "no_answer"),
        ({"question": "메신저?", "answer": "x" * 4_001}, "long_answer"),
        (good | {"tools": "slack"}, "bad_tools"),
        (good | {"also": [1]}, "bad_tools"),
        (good | {"request_id": 7}, "bad_request_id"),
        (good | {"model_answer": ["x"]}, "bad_model_answer"),
    ]
    report = run_reviews(stage, write(stage, good, *(row for row, _ in bad)))
    assert [one["code"] for one in report["rejects"]] == [code for _, code in bad]
    assert [one["line"] for one in report["rejects"]] == list(range(2, len(bad) + 2))
    assert report["journalled"] == 1 and sum(report["reasons"].values()) == report["rejected"] == len(bad)
    with pytest.raises(DatasetError, match="no usable review"):
        run_reviews(stage, write(stage, b"{"))
    with pytest.raises(DatasetError, match="can't be read"):
        run_reviews(stage, str(stage.lake.data_dir / "none.jsonl"))


def test_ids_are_those_of_earlier_imports_and_a_return_to_an_answer_is_said_anew(stage: StageContext) -> None:
    row = {"question": "메신저?", "answer": "추천: Slack", "tools": ["slack"], "reviewer": "kim", "lang": "ko"}
    run_reviews(stage, write(stage, row))
    assert reviews(stage)[0]["review_id"] == "40ec414b4268c39517c334dc"  # as before record version 3
    for minute in (1, 2):
        said = row | {"reviewed_at": f"2026-01-01T00:0{minute}:00+09:00"}
        assert run_reviews(stage, write(stage, said, said))["journalled"] == 1
    times = sorted(one["timestamp"].isoformat() for one in reviews(stage))[:2]
    assert times == ["2025-12-31T15:01:00+00:00", "2025-12-31T15:02:00+00:00"]
    late = run_reviews(stage, write(stage, row | {"reviewed_at": "2999-01-01T00:00:00Z", "answer": "b"}))
    assert late["journalled"] == 1 and max(one["timestamp"] for one in reviews(stage)) <= datetime.now(UTC)


def test_an_unknown_format_and_a_place_that_can_not_be_written(stage: StageContext, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="jsonl, csv"):
        run_export(stage, "xml", str(tmp_path / "x"), None, 1)
    (tmp_path / "folder").mkdir()
    with pytest.raises(Exception, match="can't be written"):
        run_export(stage, "csv", str(tmp_path / "folder"), None, 1)


def test_a_limit_cuts_the_file_not_the_offer(stage: StageContext, tmp_path: Path) -> None:
    append(stage.lake.lake_dir, "requests", [request(n, text) for n, text in enumerate(QUESTIONS)])
    report = run_export(stage, "csv", str(tmp_path / "queue.csv"), 2, 1)
    assert (report["exported"], report["offered"]) == (2, 6)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "queue.csv").read_text("utf-8-sig"), newline="")))
    assert len(rows) == 2 and rows[0]["suggested_tools"] == "slack"
    assert float(rows[0]["value"]) >= float(rows[1]["value"])
