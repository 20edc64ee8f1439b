"""Results as the JSON that /api/v1 and /v1 send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.asks import SearchResult
from lake.schemas.records import RetrievedItem
from serving.backends import Backend


def items(found: Sequence[RetrievedItem]) -> list[dict[str, Any]]:
    """Retrieved tools without the matched passage, which is for the prompt and the log."""
    return [
        {
            "rank": item.rank,
            "id": item.id,
            "name": item.name,
            "url": item.url,
            "description": item.description,
            "category": item.category,
            "tags": item.tags,
            "score": item.score,
            "scores": item.scores,
        }
        for item in found
    ]


def served_by(backend: Backend | None) -> dict[str, Any] | None:
    """Which LLM answered; never its key."""
    if backend is None:
        return None
    return {
        "backend": backend.profile,
        "model": backend.model,
        "adapter": backend.adapter or None,
        "generation": backend.generation,
    }


def result(answered: SearchResult, *, with_items: bool = True) -> dict[str, Any]:
    """The body of an answer. `served_by` is null where no LLM answered."""
    body: dict[str, Any] = {"request_id": answered.request_id, "answer": answered.answer}
    if with_items:
        body["items"] = items(answered.items)
    return body | {
        "lang": answered.lang,
        "served_by": served_by(answered.backend) if answered.answer is not None else None,
        "degraded": answered.degraded is not None,
        "degraded_reason": answered.degraded,
        "finish_reason": answered.finish_reason,
        "latency_ms": answered.latency_ms,
        "usage": {"prompt_tokens": answered.prompt_tokens, "completion_tokens": answered.completion_tokens},
    }
