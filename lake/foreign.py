"""Other people's log records to halves of our own, by a mapping. Pure.

A mapping (TOML; `configs/imports/` has those for LiteLLM and OpenAI-style logs) names for each of our fields the dotted
paths where it may lie; the first one that holds something wins, then the constant. Invariants: the id of a record
follows from the source's own id, else from what it says, so that the same record has the same id whenever and from
whichever file it comes; a record that can't be mapped is an `UnmappedError` with a short reason to count.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import orjson
from ulid import ULID

from lake.errors import InputError
from lake.files import canonical_json
from lake.foreign_values import UnmappedError, count_of, messages_of, moment, text_of, unpacked, walk
from lake.journal.frames import MAX_PAYLOAD_BYTES
from lake.schemas.records import RequestHalf, ResponseHalf, RetrievedItem
from lake.text import detect_lang, nfc

FIELDS = frozenset(
    {
        "id", "timestamp", "end", "question", "answer", "model", "backend", "adapter", "finish_reason",
        "prompt_tokens", "completion_tokens", "session_id", "key_id", "error", "streamed", "lang",
    }
)  # fmt: skip
_ITEM_FIELDS = frozenset({"id", "name", "url", "description", "text", "score", "category"})
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """`fields`: our name → paths; `items`: of one retrieved tool, below each path of `items_at`.

    `only`: path → values that are taken. `multi_turn`: skip | last. `timestamp_format`: strptime; empty: found out.
    """

    name: str
    fields: Mapping[str, tuple[str, ...]]
    constants: Mapping[str, Any] = field(default_factory=dict[str, Any])
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    items_at: tuple[str, ...] = ()
    items: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    multi_turn: str = "skip"
    timestamp_format: str = ""


@dataclass(frozen=True, slots=True)
class Halves:
    """One record as our journal holds it; `response.request_seq` is set when its request is written."""

    request: RequestHalf
    response: ResponseHalf


def load_mapping(place: str, presets: Path) -> FieldMapping:
    """The mapping of a TOML file, or of a preset by name. Raises `InputError` naming what is wrong in it."""
    path = presets / f"{place}.toml" if place.isidentifier() else Path(place)
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        known = ", ".join(sorted(one.stem for one in presets.glob("*.toml")))
        raise InputError(f"The mapping {place} can't be read ({error}): name a TOML file or one of {known}.") from error
    items = cast("dict[str, Any]", read.get("items") or {})
    unknown = {*(read.get("fields") or {}), *(read.get("constants") or {})} - FIELDS
    unknown |= set(items) - _ITEM_FIELDS - {"at"}
    unknown |= set(read) - {"name", "multi_turn", "timestamp_format", "fields", "constants", "only", "items"}
    if unknown:
        raise InputError(f"The mapping {path} has unknown names: {', '.join(sorted(unknown))}; see docs/lake.md.")
    if read.get("multi_turn", "skip") not in ("skip", "last"):
        raise InputError(f"The mapping {path}: multi_turn is `skip` or `last`.")
    return FieldMapping(
        name=str(read.get("name") or path.stem),
        fields={name: _paths(value) for name, value in (read.get("fields") or {}).items()},
        constants=dict(read.get("constants") or {}),
        only={name: tuple(values) for name, values in (read.get("only") or {}).items()},
        items_at=_paths(items.get("at", ())),
        items={name: _paths(value) for name, value in items.items() if name != "at"},
        multi_turn=str(read.get("multi_turn", "skip")),
        timestamp_format=str(read.get("timestamp_format", "")),
    )


def _paths(value: object) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(str(one) for one in cast("list[object]", value))


def map_record(record: Mapping[str, Any], mapping: FieldMapping, default_time: datetime | None = None) -> Halves:
    """Both halves of a record. Raises `UnmappedError`."""
    for path, values in mapping.only.items():
        if (held := walk(record, path)) is not None and held not in values:
            raise UnmappedError("skipped", f"{path} is {str(held)[:40]}")
    asked, said = _find(record, mapping, "question"), None
    question, turns = _question(asked)
    if turns > 1 and mapping.multi_turn == "skip":
        raise UnmappedError("multi_turn", f"{turns} questions in one record")
    error = text_of(_find(record, mapping, "error")) or None
    for path in mapping.fields.get("answer", ()):
        if said := _answer(walk(record, path)):
            break
    if not said and error is None:
        raise UnmappedError("no_answer")
    time = _time(record, mapping, "timestamp") or default_time
    if time is None:
        raise UnmappedError("no_timestamp")
    if not _EARLIEST <= time < _LATEST:
        raise UnmappedError("timestamp", "not between 2000 and 2100")
    source_id = text_of(_find(record, mapping, "id")) or None
    model = text_of(_find(record, mapping, "model")) or "unknown"
    request_id = _id(mapping.name, source_id, time, [question, said, error, model])
    end, lang = _time(record, mapping, "end"), text_of(_find(record, mapping, "lang"))
    took_ms = (end - time) / timedelta(milliseconds=1) if end is not None and end >= time else None
    items = _items(record, mapping)
    request = RequestHalf(
        request_id=request_id, timestamp=time.isoformat(), user_query=question, lang=lang or detect_lang(question),
        top_k=len(items), retrieved_items=items, prompt_version="", prompt_sha256="", template_sha256="",
        index_version="", embedder="", session_id=text_of(_find(record, mapping, "session_id")) or None,
        key_id=text_of(_find(record, mapping, "key_id")) or None, operation="chat",
        streamed=_find(record, mapping, "streamed") is True, client_request_id=source_id,
    )  # fmt: skip
    response = ResponseHalf(
        request_id=request_id, request_seq=0, outcome="llm_error" if error is not None and not said else "answered",
        llm_response_content=said or None, backend=text_of(_find(record, mapping, "backend")) or "unknown",
        model=model, adapter=text_of(_find(record, mapping, "adapter")) or None,
        finish_reason=text_of(_find(record, mapping, "finish_reason")) or None,
        prompt_tokens=count_of(_find(record, mapping, "prompt_tokens")),
        completion_tokens=count_of(_find(record, mapping, "completion_tokens")),
        latency_ms={} if took_ms is None else {"total": took_ms}, error=error,
    )  # fmt: skip
    if max(len(orjson.dumps(half)) for half in (request, response)) > MAX_PAYLOAD_BYTES - 64:
        raise UnmappedError("too_large", f"at most {MAX_PAYLOAD_BYTES} bytes fit a record")
    return Halves(request, response)


def _find(record: Mapping[str, Any], mapping: FieldMapping, name: str) -> Any:
    for path in mapping.fields.get(name, ()):
        held = walk(record, path)
        if held is not None and unpacked(held) not in ("", {}, []):  # databases write an empty object as "{}"
            return held
    return mapping.constants.get(name)


def _question(asked: Any) -> tuple[str, int]:
    """The last question, NFC, and how many there are. A text is one question."""
    messages = messages_of(asked)
    if messages is None:
        questions = [text_of(asked)]
    else:
        questions = [text_of(one.get("content")) for one in messages if one.get("role") == "user"]
    if not questions or not questions[-1].strip():
        raise UnmappedError("no_question")
    return nfc(questions[-1]).strip(), len(questions)


def _answer(said: Any) -> str:
    """The text of an answer; of a list of messages the assistant's last word, if it comes last."""
    messages = messages_of(said)
    if messages is not None:
        said = messages[-1].get("content") if messages[-1].get("role") == "assistant" else None
    elif isinstance(found := unpacked(said), dict) and (found is said or not found or "choices" in found):
        return ""  # a whole response is no answer; a text that happens to be JSON is one
    return nfc(text_of(said)).strip()


def _time(record: Mapping[str, Any], mapping: FieldMapping, name: str) -> datetime | None:
    held = _find(record, mapping, name)
    return None if held is None else moment(held, mapping.timestamp_format)


def _id(source: str, source_id: str | None, time: datetime, says: list[Any]) -> str:
    """A ULID of the record's own time; the rest of it is a hash, so it never changes."""
    identity = [source, source_id] if source_id else [source, time.isoformat(), *says]
    digest = hashlib.sha256(canonical_json(identity)).digest()
    milliseconds = int((time - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))
    return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + digest[:10]))


def _items(record: Mapping[str, Any], mapping: FieldMapping) -> list[RetrievedItem]:
    """Tools that were shown with the question, where the log has them."""
    for path in mapping.items_at:
        held = walk(record, path)
        if isinstance(held, list) and held:
            return [_item(one, rank, mapping) for rank, one in enumerate(cast("list[Any]", held), 1)]
    return []


def _item(held: Any, rank: int, mapping: FieldMapping) -> RetrievedItem:
    def part(name: str) -> str:
        for path in mapping.items.get(name, (name,)):
            if found := text_of(walk(held, path)):
                return nfc(found)
        return ""

    if not isinstance(held, dict) or not part("name"):
        raise UnmappedError("items", f"item {rank} has no name")
    try:
        score = float(part("score") or 0.0)
    except ValueError:
        raise UnmappedError("items", f"the score of item {rank} is no number") from None
    text = part("text") or part("description")
    return RetrievedItem(
        rank, score, part("id") or part("name"), part("name"), part("url"), part("description"), text, [],
        part("category"),
    )  # fmt: skip
