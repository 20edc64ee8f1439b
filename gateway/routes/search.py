"""POST /api/v1/search: parse, ask `gateway.search`, render."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Body, Depends, Request, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from gateway.auth import require_scope
from gateway.parts import Parts
from gateway.search import SearchAsk, SearchResult
from lake.schemas.records import RetrievedItem

router = APIRouter(dependencies=[Depends(require_scope("search"))])


class SearchRequest(BaseModel):
    """A question. `query` and `user_query` are taken for `question` too."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: str = Field(
        validation_alias=AliasChoices("question", "query", "user_query"),
        description="What the tool should do, in Korean or English.",
    )
    top_k: int | None = Field(default=None, description="Tools to retrieve; unset: the gateway's default (3).")
    lang: Literal["ko", "en"] | None = Field(
        default=None, description="Language of the answer's sources; unset: found."
    )
    session_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._:-]{1,128}$",
        description="Groups logged requests; the prompt stays single-turn.",
    )
    allow_degraded: bool = Field(
        default=False, description="Answer 200 with `degraded: true` and the tools alone where no LLM answers."
    )


class Item(BaseModel):
    """A retrieved tool. `score` ranked it; `scores` are labelled (dense: cosine, lexical and rerank: 0..1)."""

    rank: int
    id: str
    name: str
    url: str
    description: str
    category: str
    tags: list[str]
    score: float
    scores: dict[str, float]


class ServedBy(BaseModel):
    """Which LLM answered."""

    backend: str
    model: str
    adapter: str | None
    generation: int


class Usage(BaseModel):
    """Tokens, where the LLM server reports them."""

    prompt_tokens: int | None
    completion_tokens: int | None


class SearchResponse(BaseModel):
    """An answer with what it rests on. `answer` is null only where `degraded` is true."""

    request_id: str
    answer: str | None
    items: list[Item]
    lang: str
    served_by: ServedBy | None
    degraded: bool
    finish_reason: str | None
    latency_ms: dict[str, float]
    usage: Usage


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str


_EXAMPLES: dict[str, Any] = {
    "korean": {
        "summary": "한국어",
        "value": {"question": "여러 명이 화면 시안을 같이 고칠 수 있는 도구 있을까요?"},
    },
    "english": {
        "summary": "English",
        "value": {"question": "open source vector editor for Linux", "top_k": 5, "allow_degraded": True},
    },
}
_ANSWER_EXAMPLE: dict[str, Any] = {
    "request_id": "01JD8Y7K3M5QX0R2T4V6W8Z9AB",
    "answer": "추천: Figma\n이유: 여러 명이 브라우저에서 같은 화면 시안을 동시에 편집할 수 있습니다.\n링크: https://www.figma.com",
    "items": [
        {
            "rank": 1, "id": "figma", "name": "Figma", "url": "https://www.figma.com",
            "description": "브라우저에서 여러 명이 함께 쓰는 화면 디자인 도구입니다.", "category": "design",
            "tags": ["ui"], "score": 0.97, "scores": {"dense": 0.87, "lexical": 0.41, "rerank": 0.97},
        }
    ],
    "lang": "ko",
    "served_by": {"backend": "vllm", "model": "mulle-0001", "adapter": "mulle-0001", "generation": 4},
    "degraded": False,
    "finish_reason": "stop",
    "latency_ms": {"embed": 14.2, "retrieve": 3.1, "rerank": 0.4, "prompt": 0.9, "llm": 812.0, "total": 835.5},
    "usage": {"prompt_tokens": 212, "completion_tokens": 41},
}  # fmt: skip


def _problem(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": Problem.model_json_schema()}},
    }


_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"example": _ANSWER_EXAMPLE}}},
    400: _problem("The body could not be read."),
    408: _problem("The body took too long."),
    413: _problem("The body is too large."),
    422: _problem("The question or another field is wrong: the detail says what to change."),
    500: _problem("Our fault."),
    502: _problem("The LLM server failed; logged."),
    503: _problem("Overloaded, not ready, or the journal is unavailable (log_unavailable)."),
    504: _problem("The LLM was too slow; logged."),
}


@router.post(
    "/api/v1/search",
    response_model=SearchResponse,
    responses=_RESPONSES,
    summary="Find tools for a question and let the LLM answer",
)
async def search(request: Request, body: Annotated[SearchRequest, Body(openapi_examples=_EXAMPLES)]) -> Response:
    """The record of the request is durable before this answer is sent; its id is `request_id` and
    `X-Request-ID`.
    """
    parts: Parts = request.app.state.parts
    ask = SearchAsk(body.question, body.top_k, body.lang, body.session_id, body.allow_degraded)
    result = await parts.search.search(ask, request.state.request_id, request.is_disconnected)
    return Response(orjson.dumps(_render(result)), media_type="application/json")


def _render(result: SearchResult) -> dict[str, Any]:
    backend = result.backend
    served = {
        "backend": backend.profile,
        "model": backend.model,
        "adapter": backend.adapter or None,
        "generation": backend.generation,
    } if backend is not None else None  # fmt: skip
    return {
        "request_id": result.request_id,
        "answer": result.answer,
        "items": [_item(item) for item in result.items],
        "lang": result.lang,
        "served_by": served,
        "degraded": result.degraded,
        "finish_reason": result.finish_reason,
        "latency_ms": result.latency_ms,
        "usage": {"prompt_tokens": result.prompt_tokens, "completion_tokens": result.completion_tokens},
    }


def _item(item: RetrievedItem) -> dict[str, Any]:
    return {name: getattr(item, name) for name in Item.model_fields}
