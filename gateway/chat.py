"""OpenAI chat completions over the same search: requests to asks, results to completions and chunks. Pure.

Follows the public OpenAI API reference (Create chat completion, The chat completion chunk object). The last user
message is the question; the prompt is single-turn, so earlier messages and system messages are not sent on. What the
search adds stands under `mulle`. Invariant: every option that would change the answer is either honoured or refused.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway import rendering
from gateway.asks import SearchAsk, SearchResult, filter_values
from gateway.errors import UnknownModelError, UnsupportedError
from lake.errors import InputError
from serving.backends import Backend
from serving.retriever import Retrieval


class TextPart(BaseModel):
    """One part of a message's content; only text is understood."""

    type: str
    text: str = ""


class Message(BaseModel):
    """One turn of the conversation."""

    role: str
    content: str | list[TextPart] | None = None


class StreamOptions(BaseModel):
    """`include_usage`: one more chunk with the token counts before [DONE]."""

    include_usage: bool = False


class MulleOptions(BaseModel):
    """What the OpenAI API has no word for."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = None
    categories: list[str] = []
    tags: list[str] = []
    lang: Literal["ko", "en"] | None = None
    session_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._:-]{1,128}$")
    allow_degraded: bool = False


class ChatRequest(BaseModel):
    """Fields that are not named here are ignored, unless `refuse_unsupported` names them."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1000)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    n: int = 1
    store: bool | None = Field(default=None, description="False: never trained on. Unset: as any request.")
    mulle: MulleOptions = MulleOptions()


# Each changes what a caller may rely on in the answer, and the single-turn prompt can't give it.
_UNSUPPORTED = (
    "tools", "functions", "tool_choice", "function_call", "logprobs", "top_logprobs", "response_format", "logit_bias",
    "modalities", "audio", "prediction", "stop", "seed", "presence_penalty", "frequency_penalty", "top_p",
)  # fmt: skip
_NEUTRAL: dict[str, Any] = {
    "logprobs": False, "presence_penalty": 0, "frequency_penalty": 0, "top_p": 1, "response_format": {"type": "text"},
    "tool_choice": "none",
}  # fmt: skip


def to_ask(body: ChatRequest) -> SearchAsk:
    """The search that a completion asks for. Raises `InputError` or `UnsupportedError`."""
    if body.n != 1:
        raise UnsupportedError("n must be 1: there is one answer to a question.")
    extra = body.model_extra or {}
    for name in _UNSUPPORTED:
        value = extra.get(name)
        if value and value != _NEUTRAL.get(name):
            raise UnsupportedError(f"{name} is not supported here: leave it out.")
    options = body.mulle
    return SearchAsk(
        question=_question(body.messages),
        top_k=options.top_k,
        lang=options.lang,
        session_id=options.session_id,
        allow_degraded=options.allow_degraded,
        categories=filter_values("mulle.categories", options.categories),
        tags=filter_values("mulle.tags", options.tags),
        store=body.store is not False,
        operation="chat",
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
    )


def _question(messages: list[Message]) -> str:
    last = messages[-1]
    if last.role != "user":
        raise InputError("The last message must be the user's: it is the question.", field="messages")
    if isinstance(last.content, str):
        return last.content
    parts = last.content or []
    odd = next((part.type for part in parts if part.type != "text"), None)
    if odd is not None:
        raise UnsupportedError("Only text can be asked: leave content parts of other types out.")
    return "\n".join(part.text for part in parts)


def check_model(name: str, alias: str, backend: Backend | None) -> None:
    """Raises `UnknownModelError` where `name` is neither this service nor the model in service."""
    known = {alias} | ({backend.model, backend.adapter} - {""} if backend else set())
    if name not in known:
        raise UnknownModelError(f"There is no model of that name: ask for {alias!r}, or see /v1/models.")


def models(alias: str, backend: Backend | None, created: int) -> list[dict[str, Any]]:
    """The `data` of /v1/models: this service, and the model that answers for it now."""
    listed = [{"id": alias, "object": "model", "created": created, "owned_by": "mulle"}]
    if backend is not None and backend.model != alias:
        listed.append({"id": backend.model, "object": "model", "created": created, "owned_by": backend.profile})
    return listed


def completion(model: str, created: int, answered: SearchResult) -> dict[str, Any]:
    """A `chat.completion`. Where no LLM answered and the caller allowed it, the content is null."""
    return {
        "id": f"chatcmpl-{answered.request_id}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answered.answer, "refusal": None},
                "logprobs": None,
                "finish_reason": _finish(answered),
            }
        ],
        "usage": usage(answered),
        "mulle": _extension(answered) | {"items": rendering.items(answered.items)},
    }


def first_chunk(model: str, created: int, request_id: str, found: Retrieval) -> dict[str, Any]:
    """The chunk that opens a stream: the role, and the retrieved items."""
    chunk = _chunk(model, created, request_id, {"role": "assistant", "content": ""}, None)
    return chunk | {"mulle": {"request_id": request_id, "items": rendering.items(found.items), "lang": found.lang}}


def piece_chunk(model: str, created: int, request_id: str, text: str) -> dict[str, Any]:
    """A piece of the answer."""
    return _chunk(model, created, request_id, {"content": text}, None)


def last_chunk(model: str, created: int, answered: SearchResult) -> dict[str, Any]:
    """The chunk that says why the answer ended, with what else is known by then."""
    chunk = _chunk(model, created, answered.request_id, {}, _finish(answered))
    return chunk | {"mulle": _extension(answered)}


def usage_chunk(model: str, created: int, answered: SearchResult) -> dict[str, Any]:
    """The chunk that `include_usage` asks for."""
    chunk = _chunk(model, created, answered.request_id, {}, None)
    return chunk | {"choices": [], "usage": usage(answered)}


def usage(answered: SearchResult) -> dict[str, int] | None:
    """Token counts as the LLM server reported them; null where it did not."""
    prompt, completed = answered.prompt_tokens, answered.completion_tokens
    if prompt is None or completed is None:
        return None
    return {"prompt_tokens": prompt, "completion_tokens": completed, "total_tokens": prompt + completed}


def _finish(answered: SearchResult) -> str:
    return answered.finish_reason if answered.finish_reason in ("stop", "length", "content_filter") else "stop"


def _extension(answered: SearchResult) -> dict[str, Any]:
    body = rendering.result(answered, with_items=False)
    return {
        name: body[name] for name in ("request_id", "lang", "served_by", "degraded", "degraded_reason", "latency_ms")
    }


def _chunk(
    model: str, created: int, request_id: str, delta: dict[str, Any], finish_reason: str | None
) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
    }
