"""POST /v1/chat/completions and GET /v1/models: the search for any OpenAI client (gateway/chat.py has the shapes)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from gateway import chat, sse
from gateway.asks import SearchResult
from gateway.auth import require_scope
from gateway.disconnect import has_gone
from gateway.parts import Parts
from gateway.problems import error_fields
from gateway.routes.origin import origin_of
from gateway.routes.schemas import problems
from gateway.stream import SearchStream

router = APIRouter(dependencies=[Depends(require_scope("search"))])


@router.post(
    "/v1/chat/completions",
    response_model=dict[str, Any],
    responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 502, 503, 504),
    summary="OpenAI chat completion over the search",
)
async def chat_completions(request: Request, body: chat.ChatRequest) -> Response:
    """The last user message is the question; tools are retrieved for it as for /api/v1/search, and logged likewise.
    `mulle` in the body takes top_k, categories, tags, lang, session_id and allow_degraded; `mulle` in the answer has
    the items, the request id and which LLM served.
    """
    parts: Parts = request.app.state.parts
    chat.check_model(body.model, parts.settings.model_alias, parts.backends.backend)
    ask, created = chat.to_ask(body), int(time.time())
    if body.stream:
        stream = await parts.search.stream(ask, origin_of(request))
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        events = _events(request, stream, parts, body.model, created, with_usage)
        return sse.stream_response(events, stream.abandon)
    answered = await parts.search.search(ask, origin_of(request), partial(has_gone, request.receive))
    return Response(orjson.dumps(chat.completion(body.model, created, answered)), media_type="application/json")


async def _events(
    request: Request, stream: SearchStream, parts: Parts, model: str, created: int, with_usage: bool
) -> AsyncIterator[bytes]:
    yield sse.event(None, chat.first_chunk(model, created, stream.request_id, stream.found))

    def end(answered: SearchResult) -> bytes:
        chunks = [chat.last_chunk(model, created, answered)]
        if with_usage:
            chunks.append(chat.usage_chunk(model, created, answered))
        return b"".join(sse.event(None, chunk) for chunk in chunks) + b"data: [DONE]\n\n"

    async for data in sse.relay(
        stream.events(parts.settings.stream_heartbeat_s),
        piece=lambda text: sse.event(None, chat.piece_chunk(model, created, stream.request_id, text)),
        end=end,
        # As OpenAI's own servers do: the error is an event, and no [DONE] follows.
        failed=lambda error: sse.event(None, {"error": error_fields(request, error, parts.metrics)["error"]}),
    ):
        yield data


@router.get(
    "/v1/models",
    response_model=dict[str, Any],
    responses=problems(400, 401, 403, 429),
    summary="Models, as OpenAI lists them",
)
async def list_models(request: Request) -> Response:
    """This service under its alias, and the model that answers for it now."""
    return _json({"object": "list", "data": _listed(request)})


@router.get(
    "/v1/models/{model:path}",
    response_model=dict[str, Any],
    responses=problems(400, 401, 403, 404, 429),
    summary="One model",
)
async def one_model(request: Request, model: str) -> Response:
    """404 where it is not listed."""
    parts: Parts = request.app.state.parts
    chat.check_model(model, parts.settings.model_alias, parts.backends.backend)
    return _json(next((card for card in _listed(request) if card["id"] == model), {"id": model, "object": "model"}))


def _listed(request: Request) -> list[dict[str, Any]]:
    parts: Parts = request.app.state.parts
    return chat.models(parts.settings.model_alias, parts.backends.backend, parts.started_unix)


def _json(value: dict[str, Any]) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
