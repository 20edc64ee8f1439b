"""POST /api/v1/feedback and /api/v1/reviews: what people say of answers, through the same journal as the requests."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from ulid import ULID

from gateway.asks import check_plain
from gateway.auth import require_scope
from gateway.caller import Caller
from gateway.errors import UnknownRequestError
from gateway.parts import Parts
from gateway.routes.schemas import (
    FeedbackRequest,
    FeedbackResponse,
    ReviewRequest,
    ReviewResponse,
    problems,
)
from lake.errors import InputError
from lake.lookup import FoundRequest, RequestFacts, find_request, request_facts
from lake.prompt import check_question
from lake.schemas.records import FeedbackRecord, ReviewRecord
from lake.text import detect_lang, nfc

feedback_router = APIRouter(dependencies=[Depends(require_scope("search"))])
review_router = APIRouter(dependencies=[Depends(require_scope("review"))])
MAX_TOOL_IDS = 50


def _text(name: str, value: str | None, max_chars: int) -> str | None:
    """NFC, trimmed; None where nothing is left. Raises `InputError`."""
    if value is None:
        return None
    check_plain(name, value)
    if len(value) > max_chars:
        raise InputError(f"{name} has {len(value)} characters, at most {max_chars} are allowed.", field=name)
    return nfc(value).strip() or None


async def _known(request: Request, request_id: str) -> RequestFacts:
    """Facts of a request that the caller may speak of. Raises `UnknownRequestError`.

    A key speaks of the requests it made; whoever knows the id of a request made without a key may speak of that one
    (80 bits of it are random). An admin speaks of any.
    """
    parts: Parts = request.app.state.parts
    caller: Caller = request.state.caller
    facts = await asyncio.to_thread(request_facts, parts.lake, request_id, datetime.now(UTC))
    if facts is None or (facts.key_id not in (None, caller.key_id) and not caller.is_admin):
        raise UnknownRequestError("There is no request of yours with this id: send the `request_id` of an answer.")
    return facts


@feedback_router.post(
    "/api/v1/feedback",
    status_code=201,
    response_model=FeedbackResponse,
    responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503),
    summary="Say what an answer was worth",
)
async def feedback(request: Request, body: FeedbackRequest) -> Response:
    """Thumb, score, comment or corrected answer for a request id, ingested or not. Each one is kept; where several
    speak of a request, the newest counts. Durable before this is answered.
    """
    parts: Parts = request.app.state.parts
    limit = parts.settings.feedback_max_chars
    comment = _text("comment", body.comment, limit)
    corrected = _text("corrected_answer", body.corrected_answer, limit)
    if body.thumb is None and body.score is None and comment is None and corrected is None:
        raise InputError("The feedback says nothing: send thumb, score, comment or corrected_answer.")
    facts = await _known(request, body.request_id)
    record = FeedbackRecord(
        feedback_id=str(ULID()),
        timestamp=datetime.now(UTC).isoformat(),
        request_id=body.request_id,
        thumb=body.thumb,
        score=body.score,
        comment=comment,
        corrected_answer=corrected,
        key_id=request.state.caller.key_id,
    )
    await parts.recorder.say(record, facts.stored)
    parts.metrics.feedback.labels(body.thumb or "none").inc()
    answer = {"feedback_id": record.feedback_id, "request_id": record.request_id}
    return Response(orjson.dumps(answer), 201, media_type="application/json")


@review_router.post(
    "/api/v1/reviews",
    status_code=201,
    response_model=ReviewResponse,
    responses=problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503),
    summary="Give a golden answer",
)
async def review(request: Request, body: ReviewRequest) -> Response:
    """A golden answer to a logged request, or to a question. The next dataset is trained on it in place of the
    model's own. A request whose caller opted out can't be reviewed: its question must not reach the lake.
    """
    parts: Parts = request.app.state.parts
    limit = parts.settings.feedback_max_chars
    answer = _text("answer", body.answer, limit)
    if answer is None:
        raise InputError("answer is empty: write what the model should say.", field="answer")
    for name, ids in (("tools", body.tools), ("also", body.also)):
        if len(ids) > MAX_TOOL_IDS or any(not _text(name, one, 200) for one in ids):
            raise InputError(f"{name} is a list of at most {MAX_TOOL_IDS} tool ids.", field=name)
    found = await _reviewed(request, body)
    question = _question(request, body, found)
    record = ReviewRecord(
        review_id=str(ULID()),
        timestamp=datetime.now(UTC).isoformat(),
        question=question,
        answer=answer,
        reviewer=_text("reviewer", body.reviewer, 100) or request.state.caller.key_id or "",
        lang=detect_lang(question),
        request_id=body.request_id,
        tools=body.tools,
        also=body.also,
        original_request_id=body.request_id,
        source=body.source,
        **_original(body, found, limit),
    )
    await parts.recorder.review(record)
    return Response(orjson.dumps({"review_id": record.review_id}), 201, media_type="application/json")


async def _reviewed(request: Request, body: ReviewRequest) -> FoundRequest | None:
    """The request that is reviewed; None where the review goes by question."""
    if body.request_id is None:
        return None
    parts: Parts = request.app.state.parts
    found = await asyncio.to_thread(find_request, parts.lake, body.request_id)
    if found is None:
        raise UnknownRequestError("There is no request with this id: send the `request_id` of an answer.")
    if not found.stored:
        raise InputError("The caller of this request opted out of storage: it can't be reviewed.")
    return found


def _question(request: Request, body: ReviewRequest, found: FoundRequest | None) -> str:
    """The reviewed question: the one given, which has to be the request's where both are."""
    parts: Parts = request.app.state.parts
    given = None
    if body.question is not None:
        given = check_question(body.question, parts.settings.question_max_chars)
    if found is None:
        if given is None:
            raise InputError("The review is of nothing: send a request_id or a question.")
        return given
    asked = (found.request or found.row or {}).get("user_query", "")
    if given is not None and given != asked:
        raise InputError("question is another one than the request's: send one of the two.", field="question")
    return asked


def _original(body: ReviewRequest, found: FoundRequest | None, limit: int) -> dict[str, Any]:
    """What the review corrects: the answer in the log, which nobody can claim otherwise, else what the caller says."""
    if found is not None:
        logged = found.response or found.row or {}
        names = {"original_answer": "llm_response_content", "original_model": "model", "original_adapter": "adapter"}
        return {name: logged.get(key) for name, key in names.items()}
    return {
        "original_answer": _text("original_answer", body.original_answer, limit),
        "original_model": _text("original_model", body.original_model, 200),
        "original_adapter": _text("original_adapter", body.original_adapter, 200),
    }
