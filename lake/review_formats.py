"""Review items out to a file, golden answers in from one: JSONL, CSV, Argilla, Label Studio. Pure: bytes and rows.

One row travels, whatever the format: out, an item of the review queue with its context; in, a mapping with `question`,
`answer`, `tools`, `also`, `reviewer`, `lang`, `request_id`, `reviewed_at` and what the model had answered
(`model_answer`, `model`, `adapter`). Reading yields every entry of a file with its number: a row, None where nobody has
answered it yet, or a `BadEntry`. The shapes:

    jsonl         a row a line
    csv           a row a line, for spreadsheets: UTF-8 with BOM, lists as `a;b`, no cell that could be a formula
    argilla       `dataset.records.to_json` of Argilla 2: a list of records with fields, suggestions and responses by
                  question and user; records of Argilla 1 (responses as a list) are read too
    label-studio  a list of tasks with data, predictions and annotations, as its JSON import and export have it
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import orjson

from lake.errors import InputError

Format = Literal["jsonl", "csv", "argilla", "label-studio"]
FORMATS: tuple[str, ...] = get_args(Format)
Row = Mapping[str, Any]
CONTEXT_CHARS = 8_000  # of a context in one field; a spreadsheet's cell holds 32,767
SUBMITTED = ("submitted", None)  # drafts and discarded responses are no answers
FIELDS = (
    "item_id", "question", "lang", "reasons", "value", "asked", "context", "suggestion", "suggested_tools",
    "request_id", "model_answer", "model", "adapter",
)  # fmt: skip
ANSWERS = ("answer", "tools", "also", "reviewer")
_FORMULA = re.compile(r"'*\s*[=+\-@\t\r\n＝＋－＠]")
LABEL_STUDIO_CONFIG = """<View>
  <Header value="Question"/>
  <Text name="question" value="$question"/>
  <Header value="What was retrieved"/>
  <Text name="context" value="$context"/>
  <TextArea name="answer" toName="question" rows="4" required="true" maxSubmissions="1" editable="true"/>
  <Header value="Ids of the tools that the answer names, and of others that would be right too (a;b)"/>
  <TextArea name="tools" toName="question" rows="1" maxSubmissions="1" editable="true"/>
  <TextArea name="also" toName="question" rows="1" maxSubmissions="1" editable="true"/>
</View>
"""


@dataclass(frozen=True, slots=True)
class BadEntry:
    """An entry that is no review. `code` is counted, `message` is for people."""

    code: str
    message: str


Entry = tuple[int, Row | BadEntry | None]  # 1-based line or place in the list


def dump(form: str, rows: Iterable[Row]) -> bytes:
    """A file of items with `FIELDS`, to be answered. Raises `InputError` for a format that is none."""
    writers = {"jsonl": _to_jsonl, "csv": _to_csv, "argilla": _to_argilla, "label-studio": _to_label_studio}
    return writers[_known(form)](rows)


def load(form: str, data: bytes) -> Iterator[Entry]:
    """The entries of a file. Raises `InputError` where the file as a whole is not of this format."""
    readers = {"jsonl": _from_jsonl, "csv": _from_csv, "argilla": _from_argilla, "label-studio": _from_label_studio}
    return readers[_known(form)](data)


def _known(form: str) -> str:
    if form not in FORMATS:
        raise InputError(f"There is no review format {form!r}: use one of {', '.join(FORMATS)}.", field="format")
    return form


def context_text(items: Sequence[Row]) -> str:
    """Retrieved tools for people: a line each with rank, name, id, description and address."""
    lines = [
        f"{item['rank']}. {item['name']} [{item['id']}] {item['description'] or item['chunk_text'] or ''}"
        f" {item['url'] or ''}".rstrip()
        for item in items
    ]
    text = "\n".join(lines)
    return text if len(text) <= CONTEXT_CHARS else text[: CONTEXT_CHARS - 1] + "…"


def join_ids(ids: Sequence[str]) -> str:
    """A list of ids as one text; JSON where an id holds a separator."""
    plain = not any(re.search(r"[,;\n]", one) or one.startswith("[") or one != one.strip() for one in ids)
    return ";".join(ids) if plain else orjson.dumps(list(ids)).decode()


def split_ids(value: object) -> object:
    """`join_ids` undone; a list stays one. What is neither comes back as it is, to be refused."""
    if value is None:
        return []
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return [one.strip() for one in re.split(r"[,;\n]", value) if one.strip()]


def _to_jsonl(rows: Iterable[Row]) -> bytes:
    return b"".join(orjson.dumps({**row, "answer": None}, option=orjson.OPT_APPEND_NEWLINE) for row in rows)


def _from_jsonl(data: bytes) -> Iterator[Entry]:
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: object = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield number, BadEntry("not_json", f"not JSON: {error}")
            continue
        if not isinstance(row, dict):
            yield number, BadEntry("not_an_object", "not a JSON object")
            continue
        found = cast("dict[str, Any]", row)
        waiting = "item_id" in found and found.get("answer") in (None, "")
        yield number, None if waiting else found


def _guarded(cell: object) -> str:
    """A cell that no spreadsheet takes for a formula (CWE-1236): an apostrophe before what could be one."""
    text = "" if cell is None else str(cell)
    return f"'{text}" if _FORMULA.match(text) else text


def _to_csv(rows: Iterable[Row]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow((*FIELDS, *ANSWERS))
    for row in rows:
        cells = {**row, "reasons": join_ids(row["reasons"]), "suggested_tools": join_ids(row["suggested_tools"])}
        writer.writerow([_guarded(cells.get(name)) for name in (*FIELDS, *ANSWERS)])
    return out.getvalue().encode("utf-8-sig")


def _decoded(data: bytes) -> str:
    """UTF-8 with or without BOM, else CP949 (what Korean Excel saves)."""
    for encoding in ("utf-8-sig", "cp949"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InputError("The CSV file is neither UTF-8 nor CP949: save it as UTF-8.")


def _from_csv(data: bytes) -> Iterator[Entry]:
    text = _decoded(data)
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    header = [name.strip().lower() for name in next(reader, [])]
    if "answer" not in header or not {"question", "request_id"} & set(header):
        raise InputError("The CSV file needs a header line with `answer` and `question` (or `request_id`).")
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, BadEntry("not_csv", f"not CSV: {error}")
            continue
        if not any(values):
            continue
        if len(values) > len(header):
            yield number, BadEntry("not_csv", f"{len(values)} cells, the header has {len(header)}")
            continue
        cells = zip(header, values, strict=False)
        row: dict[str, Any] = {
            name: cell[1:] if cell[:1] == "'" and _FORMULA.match(cell) else cell for name, cell in cells
        }
        if not row["answer"].strip() and row.get("item_id"):
            yield number, None
            continue
        kept = {name: cell for name, cell in row.items() if cell}
        yield number, kept | {name: split_ids(kept.get(name)) for name in ("tools", "also")}


def _facts(row: Row) -> dict[str, Any]:
    """What an annotation tool carries along and gives back, nulls left out."""
    facts = {name: row[name] for name in ("value", "asked", "lang", "request_id", "model_answer", "model", "adapter")}
    return {**{name: value for name, value in facts.items() if value is not None}, "reasons": join_ids(row["reasons"])}


def _json_list(data: bytes, what: str) -> Iterator[tuple[int, dict[str, Any] | BadEntry]]:
    try:
        found: object = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise InputError(f"The file is not JSON ({error}): export the {what} as JSON.") from error
    listed = cast("list[object]", found if isinstance(found, list) else [found])
    for number, one in enumerate(listed, start=1):
        good = isinstance(one, dict)
        yield number, cast("dict[str, Any]", one) if good else BadEntry("not_an_object", "not a JSON object")


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _to_argilla(rows: Iterable[Row]) -> bytes:
    records: list[dict[str, Any]] = []
    for row in rows:
        suggested = (
            {"answer": row["suggestion"], "tools": join_ids(row["suggested_tools"])} if row["suggestion"] else {}
        )
        records.append(
            {
                "id": row["item_id"],
                "fields": {"question": row["question"], "context": row["context"] or "-"},
                "metadata": _facts(row),
                "suggestions": {
                    name: {"value": value, "score": None, "agent": row["model"]}
                    for name, value in suggested.items()
                    if value
                },
                "responses": {},
                "vectors": {},
            }
        )
    return orjson.dumps(records)


def _argilla_responses(record: Row) -> dict[str, dict[str, Any]]:
    """Submitted values by user and question; of Argilla 2 (by question) and 1 (by user)."""
    users: dict[str, dict[str, Any]] = {}
    responses: object = record.get("responses")
    if isinstance(responses, list):
        for one in map(_mapping, responses):
            if one.get("status") in SUBMITTED:
                values = {name: _mapping(value).get("value") for name, value in _mapping(one.get("values")).items()}
                users.setdefault(str(one.get("user_id")), {}).update(values)
        return users
    for name, given in _mapping(responses).items():
        for one in map(_mapping, given if isinstance(given, list) else []):
            if one.get("status") in SUBMITTED:
                users.setdefault(str(one.get("user_id")), {})[name] = one.get("value")
    return users


def _from_argilla(data: bytes) -> Iterator[Entry]:
    for number, record in _json_list(data, "records"):
        if isinstance(record, BadEntry):
            yield number, record
            continue
        fields, facts = _mapping(record.get("fields")), _mapping(record.get("metadata"))
        if not fields:
            yield number, BadEntry("no_question", "no `fields`: export with `dataset.records.to_json`")
            continue
        answers = [
            {**facts, "question": fields.get("question"), **values, "reviewer": user}
            for user, values in _argilla_responses(record).items()
            if values.get("answer")
        ]
        yield from _answered(number, answers)


def _answered(number: int, answers: Sequence[dict[str, Any]]) -> Iterator[Entry]:
    if not answers:
        yield number, None
    for row in answers:
        yield number, row | {name: split_ids(row.get(name)) for name in ("tools", "also")}


def _to_label_studio(rows: Iterable[Row]) -> bytes:
    tasks: list[dict[str, Any]] = []
    for row in rows:
        suggested = (
            {"answer": row["suggestion"], "tools": join_ids(row["suggested_tools"])} if row["suggestion"] else {}
        )
        result = [
            {"from_name": name, "to_name": "question", "type": "textarea", "value": {"text": [value]}}
            for name, value in suggested.items()
            if value
        ]
        data = {"item_id": row["item_id"], "question": row["question"], "context": row["context"] or "-"}
        prediction = {"model_version": row["model"] or "golden", "result": result}
        tasks.append({"data": data | _facts(row), "predictions": [prediction] if result else []})
    return orjson.dumps(tasks)


def _label_studio_values(results: object) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for one in map(_mapping, results if isinstance(results, list) else []):
        value = _mapping(one.get("value"))
        if "text" in value:
            text = value["text"]
            values[str(one.get("from_name"))] = "\n".join(map(str, text)) if isinstance(text, list) else text
        elif "choices" in value:
            values[str(one.get("from_name"))] = value["choices"]
    return values


def _from_label_studio(data: bytes) -> Iterator[Entry]:
    for number, task in _json_list(data, "tasks"):
        if isinstance(task, BadEntry):
            yield number, task
            continue
        facts = _mapping(task.get("data"))
        if not facts:
            yield number, BadEntry("no_question", "no `data`: export the project as JSON, not JSON_MIN")
            continue
        given: object = task.get("annotations")
        answers: list[dict[str, Any]] = []
        for one in map(_mapping, given if isinstance(given, list) else []):
            values = _label_studio_values(one.get("result"))
            if one.get("was_cancelled") or not values.get("answer"):
                continue
            by: object = one.get("completed_by", "")
            who = _mapping(by).get("id", "") if isinstance(by, dict) else by  # the number: an address is personal
            times = {"reviewed_at": one.get("updated_at") or one.get("created_at")}
            answers.append({**facts, **times, **values, "reviewer": str(who)})
        yield from _answered(number, answers)
