"""Journal payloads to Arrow columns, a block at a time; what `lake/journal/payloads.py` does record by record.

Pure. Invariant: a table that comes out is what the record-by-record way makes of the same payloads, and none of
them is one that it would refuse; wherever that is not certain (an unknown field, another type, an unusual time, an
answer that does not belong) None comes out and the caller takes that way, so that every refusal has its exact reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

import pyarrow as pa
import pyarrow.compute
import pyarrow.json as pj

from lake.schemas.records import RECORD_VERSION, Outcome
from lake.schemas.tables import RETRIEVED_ITEM, TABLES, TIMESTAMP

pc: Any = pyarrow.compute  # has no type stubs
_BLOCK_BYTES = 4 << 20  # of the JSON parser; the largest payload is 1 MiB
_UTC_TIME = r"^[1-9][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(\+00:00|Z)$"
_OUTCOMES = pa.array(sorted(get_args(Outcome)))
_THUMBS = pa.array(["up", "down"])

_ANSWER = (
    "llm_response_content", "outcome", "error", "backend", "model", "adapter", "finish_reason", "prompt_tokens",
    "completion_tokens", "latency_ms", "fallback", "degraded", "first_token_ms",
)  # fmt: skip
# What a record must hold; the rest may be null or absent.
_NEEDED: dict[str, tuple[str, ...]] = {
    "requests": (
        "request_id", "user_query", "lang", "top_k", "retrieved_items", "prompt_version", "prompt_sha256",
        "template_sha256", "index_version", "embedder",
    ),
    "responses": ("request_id", "request_seq", "outcome", "backend", "model", "latency_ms"),
    "reviews": ("review_id", "question", "answer", "reviewer", "lang", "tools", "also"),
    "feedback": ("feedback_id", "request_id"),
}  # fmt: skip
_NOT_IN_PAYLOAD = {"date", "segment", "seq", "record_version"}


def _payload_schema(name: str, renamed: dict[str, str], leave_out: tuple[str, ...] = ()) -> pa.Schema:
    """Fields of a payload: the table's own, under the names and types that records have."""
    fields: list[pa.Field[Any]] = [pa.field("version", pa.int32())]
    for field in TABLES[name]:
        if field.name in _NOT_IN_PAYLOAD or field.name in leave_out:
            continue
        kind = pa.string() if field.name == "timestamp" else field.type
        fields.append(pa.field(renamed.get(field.name, field.name), kind))
    return pa.schema(fields)


_PAYLOADS = {
    "requests": _payload_schema("requests", {"stored": "store"}, _ANSWER),
    "responses": pa.schema(
        [
            pa.field("version", pa.int32()),
            pa.field("request_id", pa.string()),
            pa.field("request_seq", pa.int64()),
            *(pa.field(name, TABLES["requests"].field(name).type) for name in _ANSWER),
        ]
    ),
    "reviews": _payload_schema("reviews", {}),
    "feedback": _payload_schema("feedback", {}),
}
_ID = {"requests": "request_id", "responses": "request_id", "reviews": "review_id", "feedback": "feedback_id"}


def rows(
    name: str, payloads: Sequence[bytes], keys: Sequence[str], segments: Sequence[str], seqs: Sequence[int]
) -> pa.Table | None:
    """Rows of reviews, feedback, or requests without their second half; None where a payload is unusual.

    All arguments are of one length, one a row. `keys`: ids that the payloads must hold.
    """
    parsed = _parse(name, payloads, keys)
    if parsed is None:
        return None
    times = _times(parsed["timestamp"])
    if times is None or not _sound(name, parsed):
        return None
    columns = {column: values for column, values in parsed.items() if column not in ("version", "timestamp")}
    columns |= {
        "timestamp": times,
        "date": pc.utf8_slice_codeunits(parsed["timestamp"], 0, 10),
        "record_version": parsed["version"],
        "segment": pa.array(segments, pa.string()),
        "seq": pa.array(seqs, pa.int64()),
    }
    if name == "requests":
        columns["stored"] = columns.pop("store")
        _blank(columns, {"user_query": "", "retrieved_items": [], "prompt_sha256": ""})
        columns["outcome"] = pa.repeat("aborted", len(payloads))
    schema = TABLES[name]
    return pa.table(
        {field.name: columns.get(field.name, pa.nulls(len(payloads), field.type)) for field in schema}, schema=schema
    )


def with_answers(requests: pa.Table, payloads: Sequence[bytes | None], keys: Sequence[str]) -> pa.Table | None:
    """`requests` with their second halves (None: has none); None where one is unusual."""
    given = [payload for payload in payloads if payload is not None]
    if not given:
        return requests
    ids = [key for key, payload in zip(keys, payloads, strict=True) if payload is not None]
    parsed = _parse("responses", given, ids)
    if parsed is None or not _sound("responses", parsed):
        return None
    columns: dict[str, Any] = {name: requests.column(name) for name in requests.schema.names}
    answers: dict[str, Any] = {name: parsed[name] for name in _ANSWER}
    if len(given) < len(payloads):
        at = iter(range(len(given)))
        places = pa.array([None if payload is None else next(at) for payload in payloads], pa.int64())
        answers = {name: values.take(places) for name, values in answers.items()}
        answers["outcome"] = pc.fill_null(answers["outcome"], "aborted")
    columns |= answers
    code = pc.if_else(pc.equal(columns["error"], ""), None, columns["error"])
    code = pc.list_element(pc.split_pattern(code, ":", max_splits=1), 0)
    _blank(columns, {"llm_response_content": None, "error": pc.if_else(pc.equal(code, ""), None, code)})
    return pa.table(columns, schema=requests.schema)


def _parse(name: str, payloads: Sequence[bytes], keys: Sequence[str]) -> dict[str, Any] | None:
    """Columns of the payloads, each row checked to be the record with its key."""
    if any(b"\n" in payload for payload in payloads):
        return None
    # Each payload is wrapped, so that one which is no object, or more than one, is an error and not a row or a crash.
    data = b'{"r":' + b'}\n{"r":'.join(payloads) + b"}\n"
    schema = pa.schema([pa.field("r", pa.struct(list(_PAYLOADS[name])))])
    try:
        table: Any = pj.read_json(
            pa.BufferReader(data),
            read_options=pj.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=pj.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
        )
        table.validate(full=True)  # the parser lets text through that is not UTF-8
        record = table.column("r").combine_chunks()
    except (pa.ArrowException, UnicodeError):
        return None
    if len(record) != len(payloads) or record.null_count:
        return None
    columns = dict(zip(_PAYLOADS[name].names, record.flatten(), strict=True))
    versions = columns["version"]
    if versions.null_count or pc.max(versions).as_py() > RECORD_VERSION:
        return None
    if any(columns[needed].null_count for needed in _NEEDED[name]):
        return None
    return columns if columns[_ID[name]].equals(pa.array(keys, pa.string())) else None


def _times(texts: Any) -> Any:
    """Timestamps of ISO 8601 texts in UTC; None where one is missing or written otherwise."""
    if texts.null_count or not pc.all(pc.match_substring_regex(texts, _UTC_TIME), min_count=0).as_py():
        return None
    try:
        return pc.cast(texts, TIMESTAMP)
    except pa.ArrowInvalid:
        return None


def _sound(name: str, columns: dict[str, Any]) -> bool:
    """What types and nulls don't say: values out of a closed list, numbers that are none, nulls inside lists."""
    if name == "requests":
        items = columns["retrieved_items"].flatten()
        if items.null_count:
            return False
        inner = dict(zip((field.name for field in cast("Any", RETRIEVED_ITEM)), items.flatten(), strict=True))
        lists = [inner["tags"], columns["categories"], columns["filter_tags"]]
        numbers = [inner["score"], *inner["scores"].flatten()]
        return (
            not any(values.null_count for values in inner.values())
            and all(_full(values) for values in lists)
            and all(_finite(values) for values in numbers)
        )
    if name == "responses":
        numbers = [columns["first_token_ms"], *columns["latency_ms"].flatten()]
        return _within(columns["outcome"], _OUTCOMES) and all(_finite(values) for values in numbers)
    if name == "reviews":
        return _full(columns["tools"]) and _full(columns["also"])
    score = columns["score"].drop_null()
    in_range = pc.all(pc.and_(pc.greater_equal(score, 1), pc.less_equal(score, 5)), min_count=0).as_py()
    return bool(in_range) and _within(columns["thumb"].drop_null(), _THUMBS)


def _full(lists: Any) -> bool:
    return not lists.flatten().null_count


def _finite(numbers: Any) -> bool:
    return bool(pc.all(pc.is_finite(numbers.drop_null()), min_count=0).as_py())


def _within(values: Any, known: Any) -> bool:
    return bool(pc.all(pc.is_in(values, value_set=known), min_count=0).as_py())


def _blank(columns: dict[str, Any], instead: dict[str, Any]) -> None:
    """Whoever opted out has no text in the lake, whatever the record holds."""
    opted_out = pc.fill_null(pc.equal(columns["stored"], False), False)
    if not pc.any(opted_out, min_count=0).as_py():
        return
    for name, value in instead.items():
        held = columns[name]
        if not isinstance(value, pa.Array | pa.ChunkedArray):
            value = pa.scalar(value, held.type)
        columns[name] = pc.if_else(opted_out, value, held)
