"""Bodies of /api/v1 as OpenAPI describes them, with their examples."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

RequestId = Annotated[str, Field(pattern=r"^[0-7][0-9A-HJKMNP-TV-Z]{25}$", description="`request_id` of an answer.")]


class SearchRequest(BaseModel):
    """A question. `query` and `user_query` are taken for `question` too."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: str = Field(
        validation_alias=AliasChoices("question", "query", "user_query"),
        description="What the tool should do, in Korean or English.",
    )
    top_k: int | None = Field(default=None, description="Tools to retrieve; unset: the gateway's default (3).")
    categories: list[str] | None = Field(
        default=None,
        validation_alias=AliasChoices("categories", "category"),
        description="Only tools of one of these categories (at most 20).",
    )
    tags: list[str] | None = Field(default=None, description="Only tools that have all of these tags (at most 20).")
    lang: Literal["ko", "en"] | None = Field(
        default=None, description="Language of the answer's sources; unset: found."
    )
    session_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._:-]{1,128}$",
        description="Groups logged requests; the prompt stays single-turn.",
    )
    stream: bool = Field(default=False, description="Answer with Server-Sent Events: items, token…, done (or error).")
    store: bool = Field(
        default=True,
        description="False: the text is kept for operations for a few days and is never trained on.",
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
    """An answer with what it rests on. `answer` is null only where `degraded` is true.

    `degraded_reason`: fallback (another LLM than the usual one answered), no_llm or llm_error (none did).
    """

    request_id: str
    answer: str | None
    items: list[Item]
    lang: str
    served_by: ServedBy | None
    degraded: bool
    degraded_reason: Literal["fallback", "no_llm", "llm_error"] | None
    finish_reason: str | None
    latency_ms: dict[str, float]
    usage: Usage


class FeedbackRequest(BaseModel):
    """What a user says of an answer: at least one of thumb, score, comment, corrected_answer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: RequestId
    thumb: Literal["up", "down"] | None = None
    score: int | None = Field(default=None, ge=1, le=5, description="1 (useless) to 5 (just right).")
    comment: str | None = None
    corrected_answer: str | None = Field(default=None, description="What the answer should have been.")


class FeedbackResponse(BaseModel):
    """The feedback is durable."""

    feedback_id: str
    request_id: str


class ReviewRequest(BaseModel):
    """A golden answer: to one logged request, or to a question wherever it is asked."""

    model_config = ConfigDict(extra="forbid", strict=True)

    request_id: RequestId | None = None
    question: str | None = Field(default=None, description="Needed where no request_id is given.")
    answer: str = Field(description="What the model should answer, in the house style.")
    tools: list[str] = Field(default=[], description="Ids of the tools that the answer names; empty: none suits.")
    also: list[str] = Field(default=[], description="Ids of tools that would be right too.")
    reviewer: str = Field(default="", max_length=100)
    original_answer: str | None = Field(
        default=None, description="What is corrected; taken from the log where a request_id is given."
    )
    original_model: str | None = Field(default=None, max_length=200, description="Who had answered so.")
    original_adapter: str | None = Field(default=None, max_length=200)
    source: Literal["api", "page"] = Field(default="api", description="How the review came.")


class ReviewResponse(BaseModel):
    """The review is durable."""

    review_id: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    request_id: str


SEARCH_EXAMPLES: dict[str, Any] = {
    "korean": {
        "summary": "한국어",
        "value": {"question": "여러 명이 화면 시안을 같이 고칠 수 있는 도구 있을까요?"},
    },
    "english": {
        "summary": "English",
        "value": {"question": "open source vector editor for Linux", "top_k": 5, "allow_degraded": True},
    },
    "filtered": {
        "summary": "디자인 도구만, 스트리밍",
        "value": {"question": "무료로 쓸 수 있는 것", "categories": ["design"], "stream": True},
    },
}
ANSWER_EXAMPLE: dict[str, Any] = {
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
    "degraded_reason": None,
    "finish_reason": "stop",
    "latency_ms": {"embed": 14.2, "retrieve": 3.1, "rerank": 0.4, "prompt": 0.9, "llm": 812.0, "total": 835.5},
    "usage": {"prompt_tokens": 212, "completion_tokens": 41},
}  # fmt: skip
# One event of a stream, as OpenAPI 3.2, section 4.14.4, describes them; `data` is JSON text.
SSE_EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {"event": {"enum": ["items", "token", "done", "error", "message"]}, "data": {"type": "string"}},
    "required": ["data"],
}
STREAM_EXAMPLE = (
    'event: items\ndata: {"request_id": "01JD…", "items": [{"rank": 1, "id": "figma", …}], "lang": "ko"}\n\n'
    'event: token\ndata: {"text": "추천: "}\n\nevent: token\ndata: {"text": "Figma"}\n\n'
    'event: done\ndata: {"request_id": "01JD…", "answer": "추천: Figma", "usage": {…}, "served_by": {…}, …}\n\n'
)

_SAID: dict[int, str] = {
    400: "The body could not be read.",
    401: "An API key is needed, or the one that was sent is not valid.",
    403: "The API key lacks the scope.",
    404: "No such request.",
    408: "The body took too long.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    422: "A field is wrong: the detail says what to change.",
    429: "Too many requests: wait as long as Retry-After says.",
    500: "Our fault.",
    502: "The LLM server failed; logged.",
    503: "Overloaded, not ready, or the journal is unavailable (log_unavailable).",
    504: "The LLM was too slow; logged.",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses of these statuses, each a problem."""
    content = {"application/problem+json": {"schema": Problem.model_json_schema()}}
    return {status: {"description": _SAID[status], "content": content} for status in statuses}
