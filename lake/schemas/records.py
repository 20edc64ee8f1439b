"""Journal payloads. Version 3; later versions only add fields with defaults (readers accept the earlier ones).

Version 2 added, to requests: store, operation, streamed, trace_id, client_request_id, categories, filter_tags; to
responses: fallback, degraded, first_token_ms; to feedback: key_id. Version 3 added, to
reviews: original_* (what the review corrects), source.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal

RECORD_VERSION = 3

Operation = Literal["search", "chat"]
Outcome = Literal["answered", "llm_error", "llm_timeout", "no_llm", "client_gone", "aborted"]


class FrameKind(IntEnum):
    """What a journal frame holds; numbers are on disk and never change."""

    SEGMENT_HEADER = 0
    REQUEST = 1
    RESPONSE = 2
    REVIEW = 3
    FEEDBACK = 4
    WORKER_END = 5
    ERASED = 6  # in the place of a record that was erased: same length, same sequence number (lake/erase_journal.py)


class ErasedAs(IntEnum):
    """Flags of an ERASED frame: what the record counted as in the ledger before, and still does; on disk for ever."""

    RECORD = 0
    DUPLICATE_RESPONSE = 1
    NOTHING = 2  # a response whose request's segment was removed before


@dataclass(frozen=True, slots=True)
class RetrievedItem:
    """One tool as it was handed to the LLM. Scores are labelled; `score` is the one that ranked it (0..1)."""

    rank: int  # 1-based
    score: float
    id: str
    name: str
    url: str
    description: str
    chunk_text: str  # the passage that matched the question
    tags: list[str]
    category: str
    scores: dict[str, float] = field(default_factory=dict[str, float])  # dense (cosine), lexical (0..1), rerank


@dataclass(frozen=True, slots=True)
class RequestHalf:
    """Written while the LLM works: all that is known before its answer."""

    request_id: str  # ULID
    timestamp: str  # ISO 8601, UTC
    user_query: str  # NFC
    lang: str
    top_k: int
    retrieved_items: list[RetrievedItem]
    prompt_version: str
    prompt_sha256: str  # of the user message
    template_sha256: str
    index_version: str
    embedder: str
    session_id: str | None = None
    key_id: str | None = None
    store: bool = True  # False: the caller opted out, texts are empty here and never reach the lake
    operation: Operation = "search"
    streamed: bool = False
    trace_id: str | None = None  # W3C trace context, 32 hex digits
    client_request_id: str | None = None  # the caller's own id; it names nothing
    categories: list[str] = field(default_factory=list[str])  # filters that were asked for
    filter_tags: list[str] = field(default_factory=list[str])
    version: int = RECORD_VERSION

    def payload(self) -> dict[str, Any]:
        return asdict(self)

    def without_text(self) -> RequestHalf:
        """What the main journal holds of a request whose caller opted out: that it was, and nothing of what it said.

        The prompt's hash goes too: short questions can be guessed from it.
        """
        return replace(
            self, user_query="", retrieved_items=[], prompt_sha256="", session_id=None, client_request_id=None,
            categories=[], filter_tags=[], store=False,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResponseHalf:
    """Written (and durable) before the answer leaves."""

    request_id: str
    request_seq: int  # sequence number of the request half in the same worker's journal
    outcome: Outcome
    llm_response_content: str | None
    backend: str  # profile: vllm | lmstudio | llamacpp | ollama | openai
    model: str
    adapter: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    latency_ms: dict[str, float]  # embed, retrieve, rerank, prompt, llm, total
    error: str | None = None
    fallback: bool = False  # the fallback backend answered
    degraded: bool = False  # the answer said so: fallback, or search results without an LLM
    first_token_ms: float | None = None  # from the call of the LLM to its first piece, where it was streamed
    version: int = RECORD_VERSION

    def payload(self) -> dict[str, Any]:
        return asdict(self)

    def without_text(self) -> ResponseHalf:
        """The half that the main journal holds where the caller opted out; an error text may quote the question."""
        code = self.error.split(":", 1)[0] if self.error else None
        return replace(self, llm_response_content=None, error=code)


@dataclass(frozen=True, slots=True)
class ReviewRecord:
    """A golden answer by a person. `request_id` where it reviews one request, else it goes by question."""

    review_id: str
    timestamp: str
    question: str  # NFC
    answer: str
    reviewer: str
    lang: str
    request_id: str | None = None
    tools: list[str] = field(default_factory=list[str])  # ids that the answer names; empty: no suitable tool
    also: list[str] = field(default_factory=list[str])  # ids that would be right too
    original_answer: str | None = None  # what the model had answered; None where it is not known
    original_model: str | None = None
    original_adapter: str | None = None
    original_request_id: str | None = None  # the request that was answered so; set too where it goes by question
    source: str = ""  # how it came: api, page, jsonl, csv, argilla, label-studio
    version: int = RECORD_VERSION

    def payload(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """What a user said of an answer."""

    feedback_id: str
    timestamp: str
    request_id: str
    thumb: Literal["up", "down"] | None = None
    score: int | None = None  # 1..5
    comment: str | None = None
    corrected_answer: str | None = None
    key_id: str | None = None  # of the API key that sent it
    version: int = RECORD_VERSION

    def payload(self) -> dict[str, Any]:
        return asdict(self)

    def without_text(self) -> FeedbackRecord:
        """What the main journal holds where the request's caller opted out: the verdict alone."""
        return replace(self, comment=None, corrected_answer=None)


Record = RequestHalf | ResponseHalf | ReviewRecord | FeedbackRecord
