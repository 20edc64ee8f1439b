"""What operators ask: /livez, /readyz, /metrics, /api/v1/backend."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.auth import require_scope
from gateway.parts import Parts
from gateway.routes.schemas import problems

router = APIRouter()  # open: probes carry no key
inside = APIRouter(dependencies=[Depends(require_scope("admin"))])


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


@router.get(
    "/livez", summary="Whether the process runs", response_model=dict[str, str], responses=problems(400, 401, 429)
)
async def livez() -> Response:
    """Always 200 while the event loop turns."""
    return _json({"status": "ok"})


@router.get(
    "/readyz",
    summary="Whether requests can be answered",
    response_model=dict[str, Any],
    responses={
        **problems(400, 401, 429),
        503: {"description": "Not ready; `reasons` says why, by part (index, journal, backend, shutdown)."},
    },
)
async def readyz(request: Request) -> Response:
    """503 with reasons by part where it is not ready. Does not call the LLM server. Paths and addresses are for
    callers with the scope admin; others learn which part it is.
    """
    parts: Parts = request.app.state.parts
    reasons = await parts.not_ready()
    told = request.state.caller.is_admin
    current = parts.retrievers.current
    facts = {
        "status": "not_ready" if reasons else "ready",
        "reasons": reasons if told else dict.fromkeys(reasons, "ask with the scope admin"),
        "index": current.index.version if current else None,
        "index_note": (parts.retrievers.reason or None) if told else None,
        "backend_note": (parts.backends.reason or None) if told else None,
        "fallback_note": (parts.backends.fallback_reason or None) if told else None,
        "circuits": {state["role"]: state["state"] for state in parts.backends.states()},
        "keys_note": (parts.keys.reason or None) if told else None,
        "exact_token_counts": parts.exact_tokens,
    }
    return _json(facts, 503 if reasons else 200)


@inside.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(400, 401, 403, 429)},
)
async def metrics(request: Request) -> Response:
    """Text exposition format."""
    parts: Parts = request.app.state.parts
    return Response(await parts.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@inside.get(
    "/api/v1/backend",
    summary="Which LLM new requests go to",
    response_model=dict[str, Any],
    responses=problems(400, 401, 403, 429),
)
async def backend(request: Request) -> Response:
    """Profile, address, model, adapter and generation; never the key."""
    backends = request.app.state.parts.backends
    shown = backends.backend.public() if backends.backend is not None else None
    second = backends.fallback.public() if backends.fallback is not None else None
    return _json(
        {
            "backend": shown,
            "note": backends.reason or None,
            "fallback": second,
            "fallback_note": backends.fallback_reason or None,
            "circuits": backends.states(),
            "requests_on_replaced": backends.draining,
        }
    )
