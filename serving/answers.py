"""What an OpenAI-compatible server sends, read with suspicion. Pure.

Invariant: whatever the bytes are, the result is a well-formed value or `BackendBadAnswer` (`BackendError`
where the server itself reports an error with status 200, as LM Studio does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import orjson

from lake.errors import BackendBadAnswer, BackendError


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """One completion. Token counts are None where the server does not report them."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One entry of /v1/models; vLLM gives an adapter the name of its base as `parent`."""

    id: str
    root: str | None = None
    parent: str | None = None


def _object(body: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BackendBadAnswer(f"The LLM server's answer is not JSON ({error}): is LLM_API_BASE right?") from error
    if not isinstance(parsed, dict):
        raise BackendBadAnswer("The LLM server's answer is not a JSON object: is LLM_API_BASE right?")
    return cast(dict[str, Any], parsed)


def count_or_none(value: object) -> int | None:
    """`value` where it can be a number of tokens."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def text_or_none(value: object) -> str | None:
    """`value` where it is a non-empty text."""
    return value if isinstance(value, str) and value else None


def parse_chat(body: bytes) -> ChatAnswer:
    """The first choice's message. Raises `BackendBadAnswer` for anything else."""
    parsed = _object(body)
    choices = parsed.get("choices")
    if not isinstance(choices, list) or not choices:
        if parsed.get("error"):
            raise BackendError(f"The LLM server reports an error{error_text(body)}: see its log.")
        raise BackendBadAnswer("The LLM server's answer has no choices: is LLM_API_BASE a chat completion server?")
    choice = cast(list[Any], choices)[0]
    message = cast(dict[str, Any], choice).get("message") if isinstance(choice, dict) else None
    content = cast(dict[str, Any], message).get("content") if isinstance(message, dict) else None
    if not isinstance(content, str):
        raise BackendBadAnswer("The LLM server's answer has no text content.")
    usage = parsed.get("usage")
    counts = cast(dict[str, Any], usage) if isinstance(usage, dict) else {}
    return ChatAnswer(
        text=content,
        finish_reason=text_or_none(cast(dict[str, Any], choice).get("finish_reason")),
        prompt_tokens=count_or_none(counts.get("prompt_tokens")),
        completion_tokens=count_or_none(counts.get("completion_tokens")),
        model=text_or_none(parsed.get("model")) or "",
    )


def parse_models(body: bytes) -> list[ModelCard]:
    """The list of models. Raises `BackendBadAnswer` where it is not one; odd entries are left out."""
    data = _object(body).get("data")
    if not isinstance(data, list):
        raise BackendBadAnswer("The LLM server's list of models has no `data`: is LLM_API_BASE right?")
    cards: list[ModelCard] = []
    for entry in cast(list[Any], data):
        if isinstance(entry, dict) and (name := text_or_none(cast(dict[str, Any], entry).get("id"))):
            fields = cast(dict[str, Any], entry)
            cards.append(ModelCard(name, text_or_none(fields.get("root")), text_or_none(fields.get("parent"))))
    return cards


def blames_model(body: bytes) -> bool:
    """Whether an error says that the model is missing: LM Studio answers 400 with the parameter `model` then."""
    try:
        parsed: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    said: Any = cast(dict[str, Any], parsed).get("error") if isinstance(parsed, dict) else None
    if not isinstance(said, dict):
        return isinstance(said, str) and said.startswith(("No models loaded", "Failed to load model"))
    fields = cast(dict[str, Any], said)
    return fields.get("param") == "model" or fields.get("code") == "model_not_found"


def error_text(body: bytes, limit: int = 300) -> str:
    """`: <what the server says>` for an error message, one line, bounded; empty where it says nothing
    readable.
    """
    try:
        parsed: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    said: Any = parsed
    for key in ("error", "message", "detail", "msg"):
        if isinstance(said, list) and said:  # FastAPI lists what is wrong with a request
            said = cast(list[Any], said)[0]
        if isinstance(said, dict) and key in said:
            said = cast(dict[str, Any], said)[key]
    if not isinstance(said, str) or not said.strip():
        return ""
    line = "".join(char if char.isprintable() else " " for char in said)
    return f": {' '.join(line.split())[:limit]}"
