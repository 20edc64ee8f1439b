"""What operators ask: /livez, /readyz, /metrics, /api/v1/backend."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.parts import Parts

router = APIRouter()


def _json(value: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, media_type="application/json")


@router.get("/livez", summary="Whether the process runs", response_model=dict[str, str])
async def livez() -> Response:
    """Always 200 while the event loop turns."""
    return _json({"status": "ok"})


@router.get(
    "/readyz",
    summary="Whether requests can be answered",
    response_model=dict[str, Any],
    responses={503: {"description": "Not ready; `reasons` says why, by part (index, journal, backend, shutdown)."}},
)
async def readyz(request: Request) -> Response:
    """503 with reasons by part where it is not ready. Does not call the LLM server."""
    parts: Parts = request.app.state.parts
    reasons = await parts.not_ready()
    current = parts.retrievers.current
    facts = {
        "status": "not_ready" if reasons else "ready",
        "reasons": reasons,
        "index": current.index.version if current else None,
        "index_note": parts.retrievers.reason or None,
        "backend_note": parts.backends.reason or None,
        "exact_token_counts": parts.exact_tokens,
    }
    return _json(facts, 503 if reasons else 200)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Text exposition format."""
    parts: Parts = request.app.state.parts
    return Response(parts.metrics.text(), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/v1/backend", summary="Which LLM new requests go to", response_model=dict[str, Any])
async def backend(request: Request) -> Response:
    """Profile, address, model, adapter and generation; never the key."""
    backends = request.app.state.parts.backends
    shown = backends.backend.public() if backends.backend is not None else None
    return _json({"backend": shown, "note": backends.reason or None, "requests_on_replaced": backends.draining})
