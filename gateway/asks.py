"""What a caller asks and is answered, as plain values, and the checks that need no I/O. Knows no FastAPI."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.settings import GatewaySettings
from gateway.trace_context import TraceContext
from lake.errors import InputError, QuestionError
from lake.prompt import check_question
from lake.schemas.records import Operation, RetrievedItem
from lake.text import nfc
from serving.backends import Backend

MAX_FILTERS = 20
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
MAX_FILTER_CHARS = 100

DegradedReason = Literal["fallback", "no_llm", "llm_error"]


@dataclass(frozen=True, slots=True)
class SearchAsk:
    """What a caller wants.

    `top_k` None: the default; `lang` None: by the question. `categories`: a tool of any of them; `tags`: a tool with
    all of them. `store` False: kept for operations only (lake/journal/private.py). `max_tokens` and `temperature` None:
    the gateway's.
    """

    question: str
    top_k: int | None = None
    lang: str | None = None
    session_id: str | None = None
    allow_degraded: bool = False
    categories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    store: bool = True
    operation: Operation = "search"
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from, for its record: ids of the edge, not of the caller's choosing."""

    request_id: str
    trace: TraceContext | None = None
    key_id: str | None = None
    client_request_id: str | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What was answered. `answer` is None only where no LLM answered and the caller allowed it."""

    request_id: str
    answer: str | None
    items: list[RetrievedItem]
    lang: str
    backend: Backend | None
    degraded: DegradedReason | None
    latency_ms: dict[str, float]
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None


def check_ask(ask: SearchAsk, settings: GatewaySettings) -> str:
    """The question as it is logged and asked. Raises `InputError`, whose message says what to change."""
    if ask.top_k is not None and not 1 <= ask.top_k <= settings.top_k_max:
        raise InputError(f"top_k is {ask.top_k}: choose 1 to {settings.top_k_max}.", field="top_k")
    if ask.max_tokens is not None and not 1 <= ask.max_tokens <= settings.max_tokens_max:
        raise InputError(f"max_tokens is {ask.max_tokens}: choose 1 to {settings.max_tokens_max}.", field="max_tokens")
    if ask.temperature is not None and not 0 <= ask.temperature <= 2:
        raise InputError(f"temperature is {ask.temperature}: choose 0 to 2.", field="temperature")
    if _CONTROL.search(ask.question):
        raise QuestionError("The question holds control characters: send plain text.")
    return check_question(ask.question, settings.question_max_chars)


def check_plain(name: str, value: str) -> None:
    """Raises `InputError` where a text of the field `name` holds half a character or a control character."""
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise InputError(f"{name} holds half a character: send UTF-8 text.", field=name)
    if _CONTROL.search(value):
        raise InputError(f"{name} holds control characters: send plain text.", field=name)


def filter_values(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """Filter values in NFC, without repeats. Raises `InputError` where they are too many, too long or no text."""
    if len(values) > MAX_FILTERS:
        raise InputError(f"{name} has {len(values)} values: send at most {MAX_FILTERS}.", field=name)
    cleaned: list[str] = []
    for value in values:
        check_plain(name, value)
        text = nfc(value).strip()
        if not text or len(text) > MAX_FILTER_CHARS or any(ord(char) < 32 for char in text):
            raise InputError(
                f"{name} holds a value that is empty, longer than {MAX_FILTER_CHARS} characters or not plain text.",
                field=name,
            )
        cleaned.append(text)
    return tuple(dict.fromkeys(cleaned))
