"""POST /api/v1/search: parse, ask `gateway.search`, render as JSON or as Server-Sent Events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from gateway import rendering, sse
from gateway.asks import SearchAsk, filter_values
from gateway.auth import require_scope
from gateway.disconnect import has_gone
from gateway.parts import Parts
from gateway.problems import error_fields
from gateway.routes.body import described, read_body
from gateway.routes.origin import origin_of
from gateway.routes.schemas import (
    ANSWER_EXAMPLE,
    SEARCH_EXAMPLES,
    SSE_EVENT,
    STREAM_EXAMPLE,
    SearchRequest,
    SearchResponse,
    problems,
)
from gateway.stream import SearchStream

router = APIRouter(dependencies=[Depends(require_scope("search"))])

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/json": {"example": ANSWER_EXAMPLE},
            "text/event-stream": {"schema": SSE_EVENT, "example": STREAM_EXAMPLE},
        }
    },
    **problems(400, 401, 403, 408, 413, 415, 422, 429, 500, 502, 503, 504),
}


@router.post(
    "/api/v1/search",
    response_model=SearchResponse,
    responses=_RESPONSES,
    summary="Find tools for a question and let the LLM answer",
    openapi_extra=described(SearchRequest, SEARCH_EXAMPLES),
)
async def search(request: Request) -> Response:
    """The record of the request is durable before this answer is sent (of a stream: before its `done`); its id is
    `request_id` and `X-Request-ID`.
    """
    parts: Parts = request.app.state.parts
    body = await read_body(request, SearchRequest)
    ask = SearchAsk(
        question=body.question,
        top_k=body.top_k,
        lang=body.lang,
        session_id=body.session_id,
        allow_degraded=body.allow_degraded,
        categories=filter_values("categories", body.categories or ()),
        tags=filter_values("tags", body.tags or ()),
        store=body.store,
    )
    if body.stream:
        stream = await parts.search.stream(ask, origin_of(request))
        events = _events(request, stream, parts)
        return sse.stream_response(events, stream.abandon)
    answered = await parts.search.search(ask, origin_of(request), partial(has_gone, request.receive))
    return Response(orjson.dumps(rendering.result(answered)), media_type="application/json")


async def _events(request: Request, stream: SearchStream, parts: Parts) -> AsyncIterator[bytes]:
    found = stream.found
    head = {"request_id": stream.request_id, "items": rendering.items(found.items), "lang": found.lang}
    yield sse.event("items", head)
    async for data in sse.relay(
        stream.events(parts.settings.stream_heartbeat_s),
        piece=lambda text: sse.event("token", {"text": text}),
        end=lambda answered: sse.event("done", rendering.result(answered, with_items=False)),
        failed=lambda error: sse.event("error", error_fields(request, error, parts.metrics)),
    ):
        yield data
