"""Values out of logs that others wrote: a path through JSON, chat messages, texts, counts, moments. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import orjson

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# An epoch counts seconds, or from these sizes on milli-, micro- or nanoseconds (until the year 5138).
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))


class UnmappedError(ValueError):
    """Why a record is none of ours: a short `reason` to count, and what exactly."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def walk(value: Any, path: str) -> Any:
    """What lies at a dotted path (`response.choices.0.message`); None where nothing does.

    JSON inside a text is looked into: exports of databases hold it so.
    """
    for part in path.split("."):
        value = unpacked(value)
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get(part)
        elif isinstance(value, list) and part.isdigit():
            listed = cast("list[Any]", value)
            value = listed[int(part)] if int(part) < len(listed) else None
        else:
            return None
    return value


def unpacked(value: Any) -> Any:
    """The object or list that a text holds as JSON; anything else as it is."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    return value


def messages_of(value: Any) -> list[Mapping[str, Any]] | None:
    """Chat messages; None where the value is none of those."""
    found = unpacked(value)
    if not isinstance(found, list) or not found:
        return None
    listed = cast("list[Any]", found)
    if not all(isinstance(one, dict) and "role" in one for one in listed):
        return None
    return cast("list[Mapping[str, Any]]", listed)


def text_of(value: Any) -> str:
    """A text, a number as text, or the text parts of a message's content joined; "" for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        parts = [cast("Any", one) for one in cast("list[Any]", value) if isinstance(one, dict)]
        texts = [one.get("text") for one in parts if one.get("type") in ("text", "input_text", "output_text")]
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def count_of(value: Any) -> int | None:
    """A number of tokens; None where it is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def moment(value: Any, form: str = "") -> datetime:
    """UTC time of an ISO 8601 text, an epoch in s, ms, µs or ns, or a text of the strptime format `form`.

    What names no zone is UTC. Raises `UnmappedError`.
    """
    try:
        if isinstance(value, datetime):
            found = value
        elif form:
            found = datetime.strptime(str(value), form)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found = _of_epoch(float(value))
        else:
            text = str(value).strip()
            found = _of_epoch(float(text)) if text.replace(".", "", 1).isdigit() else datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UnmappedError("timestamp", f"{str(value)[:40]!r} is no time") from error


def _of_epoch(number: float) -> datetime:
    if not math.isfinite(number):
        raise ValueError("not finite")
    divisor = next((unit for least, unit in _UNITS if number >= least), 1.0)
    return _EPOCH + timedelta(seconds=number / divisor)
