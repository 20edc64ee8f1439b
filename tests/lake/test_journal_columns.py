"""Parsing in bulk: the same rows as record by record, or none at all; nothing odd slips through."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake.errors import IngestError
from lake.journal import columns
from lake.journal.payloads import PayloadError, Row, feedback_row, request_row, response_fields, review_row
from lake.tables import to_arrow
from tests.faults.parsers import near
from tests.lake.ingest_kit import feedback, request, response, review

SEGMENT = "w/00000001.mjl"


def bulk(name: str, payloads: list[bytes], keys: list[str]) -> pa.Table | None:
    return columns.rows(name, payloads, keys, [SEGMENT] * len(keys), list(range(1, len(keys) + 1)))


def one_by_one(name: str, payload: bytes, answer: bytes | None = None) -> Row | None:
    """The row of payloads that are well-formed and hold nothing unknown; else None."""
    ignored: Counter[str] = Counter()
    make = {"requests": request_row, "reviews": review_row, "feedback": feedback_row}[name]
    try:
        row = make(orjson.loads(payload), SEGMENT, 1, ignored)
        if answer is not None:
            row |= response_fields(orjson.loads(answer), ignored)
            if row["stored"] is False:
                row |= {"llm_response_content": None, "error": (row["error"] or "").split(":", 1)[0] or None}
    except (PayloadError, IngestError, orjson.JSONDecodeError):
        return None
    return None if ignored else row


def test_a_block_of_usual_records_is_parsed_at_once() -> None:
    keys = [f"id-{n}" for n in range(50)]
    halves = [request(key, session_id="s" if n % 2 else None) for n, key in enumerate(keys)]
    answers = [None if n % 7 == 0 else response(key, n) for n, key in enumerate(keys)]
    rows = bulk("requests", [orjson.dumps(half) for half in halves], keys)
    assert rows is not None
    rows = columns.with_answers(rows, [None if one is None else orjson.dumps(one) for one in answers], keys)
    expected: list[Row] = []
    for n, (half, answer) in enumerate(zip(halves, answers, strict=True), 1):
        row = request_row(half, SEGMENT, n, Counter())
        expected.append(row | (response_fields(answer, Counter()) if answer else {}))
    assert rows is not None and rows.equals(to_arrow("requests", expected))


OPTED_OUT = [
    ({}, {"error": "timeout: 제 질문은", "outcome": "llm_error"}),
    ({}, {"error": "", "llm_response_content": "x"}),
    ({}, {"error": ": 5"}),
    ({"store": None}, {"error": "a: b"}),
]


@pytest.mark.parametrize(("asked", "answered"), OPTED_OUT)
def test_who_opted_out_has_no_text_in_either_way(asked: dict[str, Any], answered: dict[str, Any]) -> None:
    first = orjson.dumps(request("a", store=False) | asked)
    second = orjson.dumps(response("a", 1, **answered))
    rows = bulk("requests", [first, first], ["a", "a"])
    assert rows is not None
    rows = columns.with_answers(rows, [second, None], ["a", "a"])
    row = one_by_one("requests", first, second)
    assert rows is not None and row is not None and rows.slice(0, 1).equals(to_arrow("requests", [row]))


ODD = [
    b"null", b"[]", b"5", b"", b"{}", b"{} {}", b'{"request_id":"a"}\nnull', b"{}null", b"\xef\xbb\xbf{}", b"\xff",
    b'{"version":3}\n{"version":3}', b"}{", b'{"a":1}}\n{"r":{"a":1}',
]  # fmt: skip


@pytest.mark.parametrize("payload", ODD)
@pytest.mark.parametrize("name", ["requests", "reviews", "feedback"])
def test_what_is_no_record_is_neither_a_row_nor_a_crash(name: str, payload: bytes) -> None:
    assert bulk(name, [payload], ["a"]) is None


TIMES = ["2026-03-01T12:00:00Z", "2026-03-01T12:00:00.5+00:00", "2026-03-01T23:30:00-01:00", "2026-02-30T00:00:00Z",
         "2026-03-01", "0999-01-01T00:00:00Z", "2026-03-01T12:00:00", "2026-03-01T12:00:00.1234567Z"]  # fmt: skip


@pytest.mark.parametrize("time", TIMES)
def test_times_are_read_as_record_by_record_or_not_at_all(time: str) -> None:
    payload = orjson.dumps(review(1, timestamp=time))
    rows, row = bulk("reviews", [payload], ["r-1"]), one_by_one("reviews", payload)
    assert rows is None or (row is not None and rows.equals(to_arrow("reviews", [row])))
    assert (rows is not None) == (time in TIMES[:2])


NUMBERS = [b"NaN", b"Infinity", b"-Infinity", b"1e400", b'"0.5"', b"true", b"null", b"[0.5]"]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_score_that_is_no_number_is_not_taken(number: bytes) -> None:
    payload = orjson.dumps(request("a"))
    for field in (b'"score":', b'"dense":'):
        changed = payload.replace(field + b"0.9", field + number)
        assert changed != payload
        rows, row = bulk("requests", [changed], ["a"]), one_by_one("requests", changed)
        assert rows is None or (row is not None and rows.equals(to_arrow("requests", [row])))


def test_an_id_that_differs_from_the_frames_is_not_taken() -> None:
    payload = orjson.dumps(request("a"))
    assert bulk("requests", [payload], ["b"]) is None
    assert bulk("requests", [payload[:-1] + b',"request_id":"b"}'], ["a"]) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_parsed_in_bulk_is_what_record_by_record_gives(data: st.DataObject) -> None:
    name, good = data.draw(
        st.sampled_from([("requests", request("id-1")), ("reviews", review(1)), ("feedback", feedback(1, "id-1"))])
    )
    payload = orjson.dumps(near(data.draw, good))
    key = good[{"requests": "request_id", "reviews": "review_id", "feedback": "feedback_id"}[name]]
    answer = None
    rows = bulk(name, [payload], [key])
    if name == "requests" and rows is not None:
        answer = orjson.dumps(near(data.draw, response(key, 1)))
        rows = columns.with_answers(rows, [answer], [key])
    if rows is None:
        return
    row = one_by_one(name, payload, answer)
    assert row is not None and rows.equals(to_arrow(name, [row]))
