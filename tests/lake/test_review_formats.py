"""Files of the four formats: what goes out can be answered and comes back, and every bad entry says why."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from typing import Any

import orjson
import pytest

from lake.errors import InputError
from lake.review_formats import (
    FORMATS,
    LABEL_STUDIO_CONFIG,
    BadEntry,
    context_text,
    dump,
    join_ids,
    load,
    split_ids,
)
from tests.lake.review_kit import answer, items

NASTY = [
    "=1+1",
    "+82 10",
    "-x",
    "@sum",
    "\tx",
    "'=quoted",
    "＝wide",
    " =spaced",
    'say "hi", a;b',
    "두 줄\n다음",
    "'plain",
]


def item(question: str = "메신저?", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "item_id": "q-1", "question": question, "lang": "ko", "reasons": ["thumb_down"], "value": 1.5, "asked": 2,
        "context": context_text(items("Slack", "Zoom")), "suggestion": answer("Slack"), "suggested_tools": ["slack"],
        "request_id": "q001", "model_answer": answer("Zoom"), "model": "m1", "adapter": None,
    }  # fmt: skip
    return row | changes


def answered(form: str, data: bytes, said: str, tools: list[str], reviewer: str) -> bytes:
    """What a person does with the file in the tool of that format."""
    if form == "jsonl":
        rows = [
            orjson.loads(line) | {"answer": said, "tools": tools, "reviewer": reviewer} for line in data.splitlines()
        ]
        return b"\n".join(map(orjson.dumps, rows))
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"answer": said, "tools": ";".join(tools), "reviewer": reviewer} for row in rows)
        return out.getvalue().encode("utf-8-sig")
    rows = orjson.loads(data)
    for row in rows:
        if form == "argilla":
            values = {"answer": said, "tools": ", ".join(tools)}
            row["responses"] = {name: [{"value": value, "user_id": reviewer}] for name, value in values.items()}
            row["_server_id"] = "6b8e4b4e-0000-0000-0000-000000000000"
        else:
            result = [
                {"id": "x", "from_name": name, "to_name": "question", "type": "textarea", "value": {"text": [value]}}
                for name, value in (("answer", said), ("tools", ";".join(tools)))
            ]
            times = {"created_at": "2026-01-05T10:00:00.000000Z", "updated_at": "2026-01-06T10:00:00.000000Z"}
            row["annotations"] = [{"id": 7, "completed_by": reviewer, "was_cancelled": False, "result": result} | times]
            row["id"] = 3
    return orjson.dumps(rows)


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_goes_out_unanswered_and_comes_back_answered(form: str) -> None:
    out = dump(form, [item(), item("다른 질문", request_id=None, model=None, model_answer=None, suggestion=None)])
    assert [entry for _, entry in load(form, out)] == [None, None]
    said = "추천: Slack\n이유: 여럿이 씁니다."
    back = [row for _, row in load(form, answered(form, out, said, ["slack", "zoom"], "kim"))]
    assert all(isinstance(row, dict) for row in back)
    first, second = (dict(row) for row in back if isinstance(row, dict))
    assert (first["question"], first["answer"], first["tools"]) == ("메신저?", said, ["slack", "zoom"])
    assert (first["reviewer"], first["request_id"], first["model"]) == ("kim", "q001", "m1")
    assert (first["lang"], first["model_answer"], first.get("adapter")) == ("ko", answer("Zoom"), None)
    assert (second["question"], second.get("request_id"), second.get("model_answer")) == ("다른 질문", None, None)
    if form == "label-studio":
        assert first["reviewed_at"] == "2026-01-06T10:00:00.000000Z"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("text", NASTY)
def test_every_text_comes_back_as_it_was(form: str, text: str) -> None:
    out = dump(form, [item(text)])
    ((_, row),) = load(form, answered(form, out, answer("Slack"), [], text) if form != "csv" else as_answer(out, text))
    assert isinstance(row, dict) and row["question"] == text
    assert row["answer"] == (text if form == "csv" else answer("Slack"))


def as_answer(out: bytes, text: str) -> bytes:
    """The exported CSV with its own question as the answer, as a spreadsheet would copy the cell."""
    rows = list(csv.DictReader(io.StringIO(out.decode("utf-8-sig"), newline="")))
    return answered("csv", out, rows[0]["question"], [], "kim")


def test_no_cell_of_a_spreadsheet_is_a_formula() -> None:
    rows = [item(text, suggestion=text, context=text, model_answer=text, reasons=[text]) for text in NASTY]
    cells = [cell for row in csv.reader(io.StringIO(dump("csv", rows).decode("utf-8-sig"), newline="")) for cell in row]
    assert not [cell for cell in cells if cell.lstrip(" ")[:1] in tuple("=+-@\t\r\n＝＋－＠") and cell]
    assert dump("csv", []).startswith(b"\xef\xbb\xbf")


def test_lists_of_ids_in_one_cell() -> None:
    for ids in ([], ["slack"], ["a", "b"], ["a,b", "c;d"], ["[x"], [" padded "]):
        assert split_ids(join_ids(ids)) == ids
    assert split_ids("a, b;c\nd") == ["a", "b", "c", "d"] and split_ids(3) == 3 and split_ids("[broken") == "[broken"


def codes(form: str, data: bytes) -> list[tuple[int, str | None]]:
    return [(at, one.code if isinstance(one, BadEntry) else None) for at, one in load(form, data)]


def test_bad_entries_have_their_place_and_reason() -> None:
    assert codes("jsonl", b'\xef\xbb\xbf{"answer": "a"}\nbroken\n\n[1]\n') == [
        (1, None),
        (2, "not_json"),
        (4, "not_an_object"),
    ]
    assert codes("csv", "question,answer\n메신저,a\na,b,c\n\n".encode("cp949")) == [(2, None), (3, "not_csv")]
    assert codes("argilla", b'[1, {"id": "x"}]') == [(1, "not_an_object"), (2, "no_question")]
    assert codes("label-studio", b'[{"id": 1, "answer": "json_min"}]') == [(1, "no_question")]
    for form, data in (("csv", b"a,b\n1,2\n"), ("csv", b"\xff\xfe\x00"), ("argilla", b"{"), ("label-studio", b"")):
        with pytest.raises(InputError):
            list(load(form, data))
    for call in (lambda: dump("xml", []), lambda: load("xml", b"")):
        with pytest.raises(InputError, match="jsonl, csv, argilla, label-studio"):
            call()


def test_argilla_several_users_drafts_and_the_former_form() -> None:
    new = {
        "id": "q-1",
        "fields": {"question": "메신저?"},
        "metadata": {"request_id": "q001"},
        "responses": {
            "answer": [{"value": "a", "user_id": "u1"}, {"value": "b", "user_id": "u2", "status": "draft"}],
            "tools": [{"value": ["slack"], "user_id": "u1"}],
        },
    }
    old = {
        "external_id": "q-1",
        "fields": {"question": "메신저?"},
        "responses": [
            {"user_id": "u1", "values": {"answer": {"value": "a"}, "tools": {"value": "x;y"}}, "status": "submitted"},
            {"user_id": "u3", "values": {"answer": {"value": "c"}}, "status": "discarded"},
            {"user_id": "u2", "values": {"answer": {"value": "b"}}, "status": "submitted"},
        ],
        "suggestions": [],
    }
    got = [dict(row) for _, row in load("argilla", orjson.dumps([new, old])) if isinstance(row, dict)]
    assert [(row["reviewer"], row["answer"], row["tools"]) for row in got] == [
        ("u1", "a", ["slack"]),
        ("u1", "a", ["x", "y"]),
        ("u2", "b", []),
    ]
    assert got[0]["request_id"] == "q001"


def test_label_studio_choices_cancelled_and_who() -> None:
    def one(who: object, cancelled: bool, *results: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        result = [{"from_name": name, "to_name": "question", "value": value} for name, value in results]
        return {"completed_by": who, "was_cancelled": cancelled, "result": result}

    said = ("answer", {"text": ["두 줄", "입니다"]})
    task = {
        "data": {"question": "메신저?"},
        "annotations": [
            one({"id": 4, "email": "kim@example.com"}, False, said, ("tools", {"choices": ["slack", "zoom"]})),
            one(5, True, said),
            one(6, False, ("tools", {"text": ["slack"]})),
        ],
    }
    ((_, row),) = load("label-studio", orjson.dumps([task]))
    assert isinstance(row, dict)
    assert (row["reviewer"], row["answer"], row["tools"]) == ("4", "두 줄\n입니다", ["slack", "zoom"])


def test_the_labelling_configuration_names_what_the_tasks_hold() -> None:
    (task,) = orjson.loads(dump("label-studio", [item()]))
    tags = list(ET.fromstring(LABEL_STUDIO_CONFIG))
    shown = {tag.get("value", "")[1:] for tag in tags if tag.tag == "Text"}
    asked = {tag.get("name") for tag in tags if tag.tag == "TextArea"}
    assert shown <= set(task["data"])
    assert {one["from_name"] for one in task["predictions"][0]["result"]} <= asked
    assert {one["to_name"] for one in task["predictions"][0]["result"]} == {"question"}


def test_a_long_context_is_cut() -> None:
    long = [row | {"description": "설" * 5_000} for row in items("Slack", "Zoom")]
    assert len(context_text(long)) == 8_000 and context_text(long).endswith("…")
