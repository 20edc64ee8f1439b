"""Journal payloads to table rows: types are checked here, once. Pure.

Invariant: a row that leaves here fits its Arrow schema; anything else is a `PayloadError` with the field's
name. Fields that this version does not know are counted in `ignored`, never dropped unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast, get_args

from lake.errors import IngestError
from lake.schemas.records import RECORD_VERSION, Outcome

Row = dict[str, Any]
_INT32 = 2**31
_INT64 = 2**63
_OUTCOMES = frozenset(get_args(Outcome))
LATENCY_STAGES = ("embed", "retrieve", "rerank", "prompt", "llm", "total")
SCORES = ("dense", "lexical", "rerank")


class PayloadError(ValueError):
    """A field is missing or has the wrong type; the message is `<field>: <what is wrong>`."""


class _Fields:
    """Typed access to one JSON object; remembers which fields were asked for."""

    def __init__(self, value: object, where: str = "") -> None:
        if not isinstance(value, dict):
            raise PayloadError(f"{where or 'payload'}: not an object")
        self._value = cast("dict[str, Any]", value)
        self._where = f"{where}." if where else ""
        self._asked: set[str] = set()

    def _get(self, name: str, kinds: tuple[type, ...], optional: bool) -> Any:
        self._asked.add(name)
        value = self._value.get(name)
        if value is None and optional:
            return None
        if value is None:
            raise PayloadError(f"{self._where}{name}: missing")
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise PayloadError(f"{self._where}{name}: {type(value).__name__} is the wrong type")
        return value

    def text(self, name: str) -> str:
        return self._get(name, (str,), optional=False)

    def text_or_none(self, name: str) -> str | None:
        return self._get(name, (str,), optional=True)

    def integer(self, name: str, limit: int = _INT32, *, optional: bool = False) -> int | None:
        value = self._get(name, (int,), optional)
        if value is not None and not -limit <= value < limit:
            raise PayloadError(f"{self._where}{name}: {value} is out of range")
        return value

    def number(self, name: str, *, optional: bool = False) -> float | None:
        value = self._get(name, (int, float), optional)
        return None if value is None else float(value)

    def flag(self, name: str) -> bool | None:
        """True, False, or None where it is not given."""
        self._asked.add(name)
        value = self._value.get(name)
        if value is not None and not isinstance(value, bool):
            raise PayloadError(f"{self._where}{name}: {type(value).__name__} is the wrong type")
        return value

    def items(self, name: str) -> list[Any]:
        return self._get(name, (list,), optional=False)

    def texts(self, name: str, *, optional: bool = False) -> list[str] | None:
        values = self._get(name, (list,), optional)
        if values is None:
            return None
        if not all(isinstance(value, str) for value in values):
            raise PayloadError(f"{self._where}{name}: holds something that is not text")
        return cast("list[str]", values)

    def numbers(self, name: str, known: tuple[str, ...], ignored: Counter[str]) -> dict[str, float | None]:
        inner = _Fields(self._get(name, (dict,), optional=False), f"{self._where}{name}")
        numbers = {key: inner.number(key, optional=True) for key in known}
        inner.count_unknown(ignored)
        return numbers

    def version(self) -> int:
        value = self.integer("version")
        assert value is not None
        if value > RECORD_VERSION:
            raise IngestError(
                f"The journal holds a record of version {value}, this program knows {RECORD_VERSION}: "
                "upgrade Mulle and ingest again; nothing is lost meanwhile."
            )
        return value

    def timestamp(self) -> datetime:
        text = self.text("timestamp")
        try:
            time = datetime.fromisoformat(text)
            if time.tzinfo is None:
                raise ValueError("no time zone")
            return time.astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise PayloadError(f"{self._where}timestamp: not an ISO 8601 time with a zone") from error

    def count_unknown(self, ignored: Counter[str]) -> None:
        ignored.update(f"{self._where}{name}" for name in self._value if name not in self._asked)


def request_row(half: Mapping[str, Any], segment: str, seq: int, ignored: Counter[str]) -> Row:
    """A row of `requests` with the outcome `aborted`, as long as no second half overrides it.

    Raises `PayloadError`.
    """
    fields = _Fields(half)
    version, time = fields.version(), fields.timestamp()
    row: Row = {
        "date": time.date().isoformat(),
        "request_id": fields.text("request_id"),
        "timestamp": time,
        "user_query": fields.text("user_query"),
        "lang": fields.text("lang"),
        "top_k": fields.integer("top_k"),
        "session_id": fields.text_or_none("session_id"),
        "key_id": fields.text_or_none("key_id"),
        "retrieved_items": [
            _item(item, f"retrieved_items[{position}]", ignored)
            for position, item in enumerate(fields.items("retrieved_items"))
        ],
        "outcome": "aborted",
        "segment": segment,
        "seq": seq,
        "record_version": version,
        "stored": fields.flag("store"),
        "operation": fields.text_or_none("operation"),
        "streamed": fields.flag("streamed"),
        "trace_id": fields.text_or_none("trace_id"),
        "client_request_id": fields.text_or_none("client_request_id"),
        "categories": fields.texts("categories", optional=True),
        "filter_tags": fields.texts("filter_tags", optional=True),
    }
    for name in ("prompt_version", "prompt_sha256", "template_sha256", "index_version", "embedder"):
        row[name] = fields.text(name)
    fields.count_unknown(ignored)
    if row["stored"] is False:  # such a record holds no text; whatever wrote it otherwise must not bring it in
        row |= {"user_query": "", "retrieved_items": [], "prompt_sha256": ""}
    return row


def response_fields(half: Mapping[str, Any], ignored: Counter[str]) -> Row:
    """What a second half adds to its row of `requests`. Raises `PayloadError`."""
    fields = _Fields(half)
    fields.version()
    fields.text("request_id")
    fields.integer("request_seq", _INT64)
    outcome = fields.text("outcome")
    if outcome not in _OUTCOMES:
        raise PayloadError(f"outcome: {outcome[:40]!r} is unknown")
    row: Row = {
        "llm_response_content": fields.text_or_none("llm_response_content"),
        "outcome": outcome,
        "error": fields.text_or_none("error"),
        "backend": fields.text("backend"),  # never null with a second half: the ledger counts by it
        "model": fields.text("model"),
        "adapter": fields.text_or_none("adapter"),
        "finish_reason": fields.text_or_none("finish_reason"),
        "prompt_tokens": fields.integer("prompt_tokens", _INT64, optional=True),
        "completion_tokens": fields.integer("completion_tokens", _INT64, optional=True),
        "latency_ms": fields.numbers("latency_ms", LATENCY_STAGES, ignored),
        "fallback": fields.flag("fallback"),
        "degraded": fields.flag("degraded"),
        "first_token_ms": fields.number("first_token_ms", optional=True),
    }
    fields.count_unknown(ignored)
    return row


def _item(value: object, where: str, ignored: Counter[str]) -> Row:
    fields = _Fields(value, where)
    row: Row = {"rank": fields.integer("rank"), "score": fields.number("score")}
    for name in ("id", "name", "url", "description", "chunk_text", "category"):
        row[name] = fields.text(name)
    row["tags"] = fields.texts("tags")
    row["scores"] = fields.numbers("scores", SCORES, ignored)
    fields.count_unknown(ignored)
    return row


def review_row(payload: Mapping[str, Any], segment: str, seq: int, ignored: Counter[str]) -> Row:
    """A row of `reviews`. Raises `PayloadError`."""
    fields = _Fields(payload)
    version, time = fields.version(), fields.timestamp()
    row: Row = {"date": time.date().isoformat(), "timestamp": time, "record_version": version}
    for name in ("review_id", "question", "answer", "reviewer", "lang"):
        row[name] = fields.text(name)
    row |= {"request_id": fields.text_or_none("request_id"), "segment": segment, "seq": seq}
    row |= {"tools": fields.texts("tools"), "also": fields.texts("also")}
    for name in ("original_answer", "original_model", "original_adapter", "original_request_id", "source"):
        row[name] = fields.text_or_none(name)
    fields.count_unknown(ignored)
    return row


def feedback_row(payload: Mapping[str, Any], segment: str, seq: int, ignored: Counter[str]) -> Row:
    """A row of `feedback`. Raises `PayloadError`."""
    fields = _Fields(payload)
    version, time = fields.version(), fields.timestamp()
    thumb, score = fields.text_or_none("thumb"), fields.integer("score", optional=True)
    if thumb not in (None, "up", "down"):
        raise PayloadError(f"thumb: {str(thumb)[:40]!r} is neither up nor down")
    if score is not None and not 1 <= score <= 5:
        raise PayloadError(f"score: {score} is not within 1 to 5")
    row: Row = {
        "date": time.date().isoformat(),
        "feedback_id": fields.text("feedback_id"),
        "timestamp": time,
        "request_id": fields.text("request_id"),
        "thumb": thumb,
        "score": score,
        "comment": fields.text_or_none("comment"),
        "corrected_answer": fields.text_or_none("corrected_answer"),
        "key_id": fields.text_or_none("key_id"),
        "segment": segment,
        "seq": seq,
        "record_version": version,
    }
    fields.count_unknown(ignored)
    return row
