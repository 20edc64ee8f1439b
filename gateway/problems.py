"""Every error as RFC 9457 problem+json: type, title, status, detail (says what to do), code, request_id.

Reads no input text back: a wrong value is never echoed, only its place and what is wrong with it.
"""

from __future__ import annotations

import http
from collections.abc import Mapping, Sequence
from typing import Any, cast

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope, Send

from gateway.errors import AccessError
from gateway.metrics import GatewayMetrics
from lake.errors import MulleError

MEDIA_TYPE = "application/problem+json"
log = structlog.get_logger("gateway.problems")

_TODO = {
    400: "Send a JSON object with Content-Type: application/json.",
    404: "There is nothing at this path: see /openapi.json for the paths.",
    405: "This path does not take that method: see /openapi.json.",
    408: "The request body took too long: send it in one go.",
    413: "The request body is too large: shorten it.",
    415: "Send Content-Type: application/json.",
}


OUR_FAULT = "Something failed on our side: try again, and report the request_id if it stays."
_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def problem_fields(
    status: int, code: str, detail: str, request_id: str,
    extra: Mapping[str, Any] | None = None, path: str = "", param: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The members of one problem. `extra` members are added beside the standard ones; below /v1/ there is OpenAI's
    `error` member too (`param`: the first wrong field), so that its clients can show what went wrong.
    """
    body: dict[str, Any] = {
        **(extra or {}),
        "type": f"urn:mulle:problem:{code}",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request_id,
    }
    if path.startswith("/v1/"):
        kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        body["error"] = {"message": detail, "type": kind, "param": param, "code": code}
    return body


def error_fields(request: Request, error: Exception, metrics: GatewayMetrics) -> dict[str, Any]:
    """The problem of an error that comes once the status is sent, as the last event of a stream; counted and logged
    like any other.
    """
    known = error if isinstance(error, MulleError) else None
    status, code = (known.status, known.code) if known else (500, "internal")
    metrics.refused.labels(code).inc()
    if known is None:
        log.error("unexpected_error", exc_info=error)
    elif status >= 500:
        log.warning("refused", code=code, detail=str(known))
    detail = str(known) if known else OUR_FAULT
    return problem_fields(status, code, detail, request.state.request_id, path=request.scope["path"])


def problem(
    request: Request, status: int, code: str, detail: str,
    headers: Mapping[str, str] | None = None, extra: Mapping[str, Any] | None = None, param: str | None = None,
) -> Response:  # fmt: skip
    """One problem as a response."""
    state = request.scope.get("state", {})
    request_id = str(state.get("request_id", ""))
    body = orjson.dumps(problem_fields(status, code, detail, request_id, extra, request.scope["path"], param))
    response = Response(body, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)
    if request_id:  # the edge adds it too, but an error outside of it is answered without the edge
        response.headers["x-request-id"] = request_id
    return response


async def send_problem(scope: Scope, send: Send, status: int, code: str, detail: str) -> None:
    """One problem from a layer before the routes."""
    body = orjson.dumps(problem_fields(status, code, detail, scope["state"]["request_id"], path=scope["path"]))
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _places(errors: Sequence[Any]) -> list[dict[str, str]]:
    """Where a request is wrong and how, without what was sent."""
    places: list[dict[str, str]] = []
    for error in errors[:20]:
        where = ".".join(str(part) for part in error.get("loc", ()) if part != "body")
        # A key that the caller made up is input too: it may hold anything, so it is cut and made printable.
        where = "".join(char if char.isprintable() else "?" for char in where)[:100]
        places.append({"field": where, "problem": str(error.get("msg", ""))[:200]})
    return places


def install_problem_handlers(app: FastAPI, metrics: GatewayMetrics) -> None:
    """Answer every error of `app` with a problem."""

    def on_mulle_error(request: Request, error: Exception) -> Response:
        known = cast(MulleError, error)
        metrics.refused.labels(known.code).inc()
        fields = known.headers if isinstance(known, AccessError) else ()
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in fields}
        if known.status in (429, 503):
            headers.setdefault("retry-after", str(known.detail.get("retry_after_s", 5)))
        if known.status >= 500:
            log.warning("refused", code=known.code, detail=str(known))
        return problem(request, known.status, known.code, str(known), headers)

    def on_validation_error(request: Request, error: Exception) -> Response:
        places = _places(cast(RequestValidationError, error).errors())
        shown = "; ".join(f"{place['field'] or 'body'}: {place['problem']}" for place in places[:3])
        metrics.refused.labels("invalid_input").inc()
        detail = f"The request is not as described in /openapi.json: {shown}."
        return problem(
            request, 422, "invalid_input", detail, extra={"errors": places}, param=places[0]["field"] or None
        )

    def on_http_exception(request: Request, error: Exception) -> Response:
        known = cast(HTTPException, error)
        code = http.HTTPStatus(known.status_code).name.lower()
        metrics.refused.labels(code).inc()
        detail = _TODO.get(known.status_code, str(known.detail))
        return problem(request, known.status_code, code, detail, known.headers)

    def on_unexpected(request: Request, error: Exception) -> Response:
        metrics.refused.labels("internal").inc()
        log.error("unexpected_error", exc_info=error)
        return problem(request, 500, "internal", OUR_FAULT)

    app.add_exception_handler(MulleError, on_mulle_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, on_unexpected)
