"""The layer before the routes, pure ASGI: who calls, how often, and a body that is bounded, in time and real JSON.

Sits inside CORS and the edge (middleware.py), so its refusals carry their headers too. Sets `request.state.caller`.
Invariant: the app inside sees at most `max_body_bytes` of a body, and none of a caller who may do nothing anyway.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, NoReturn

import orjson
import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.auth import AccessControl
from gateway.errors import (
    AccessError,
    BodyTimeoutError,
    BodyTooLargeError,
    HeaderError,
    JSONBodyError,
    MediaTypeError,
)
from gateway.metrics import GatewayMetrics
from gateway.problems import OUR_FAULT, send_problem

_JSON = re.compile(rb"""^application/json\s*(?:;\s*charset\s*=\s*"?utf-?8"?\s*)?;?\s*$""", re.IGNORECASE)
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_CLOSE = (b"connection", b"close")  # the rest of the body was not read
log = structlog.get_logger("gateway.http")


class _ClientGone(Exception):
    """The client closed the connection before its body was whole."""


class DoorMiddleware:
    """Wraps the routes."""

    def __init__(
        self, app: ASGIApp, access: AccessControl, metrics: GatewayMetrics, max_body_bytes: int, body_timeout_s: float
    ) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope["state"]
        answer: list[tuple[bytes, bytes]] = state["answer_headers"]
        try:
            caller, headers = self._access.enter(scope)
            state["caller"] = caller
            answer += headers
            body = b""
            if _announces_body(scope):
                if caller.scopes:
                    body = await self._body(scope, receive)
                    if scope["method"] in _WITH_BODY and body:
                        _check_json(scope, body)
                else:
                    answer.append(_CLOSE)
            await self._app(scope, _replay(body, receive), send)
        except _ClientGone:
            return
        except AccessError as error:
            self._metrics.refused.labels(error.code).inc()
            if _announces_body(scope):
                answer.append(_CLOSE)
            answer += error.headers
            await send_problem(scope, send, error.status, error.code, str(error))
        except Exception:
            log.exception("unexpected_error", request_id=state["request_id"])
            if not state.get("answer_started"):
                self._metrics.refused.labels("internal").inc()
                await send_problem(scope, send, 500, "internal", OUR_FAULT)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        if len(lengths) > 1 or any(not length.isdigit() for length in lengths):
            raise HeaderError("Content-Length is not one number: send it once.")
        if lengths and int(lengths[0][:20]) > self._max_body_bytes:
            self._refuse_size()
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGone
                    piece = message.get("body", b"")
                    size += len(piece)
                    if size > self._max_body_bytes:
                        self._refuse_size()
                    pieces.append(piece)
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError as error:
            raise BodyTimeoutError(
                f"The request body did not arrive within {self._body_timeout_s:.0f} s: send it in one go."
            ) from error

    def _refuse_size(self) -> NoReturn:
        raise BodyTooLargeError(f"The request body is larger than {self._max_body_bytes} bytes: shorten it.")


def _announces_body(scope: Scope) -> bool:
    return any(
        (name == b"content-length" and value != b"0") or name == b"transfer-encoding"
        for name, value in scope["headers"]
    )


def _check_json(scope: Scope, body: bytes) -> None:
    """Refuse what two readers may read differently. orjson knows no NaN, no half surrogate pair, no bytes that are
    not UTF-8, and no nesting beyond 1,024; only a name given twice is looked for here. Costs 3 µs for a question.
    """
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    if len(types) != 1 or not _JSON.match(types[0]):
        raise MediaTypeError("Send the body with Content-Type: application/json.")
    try:
        orjson.loads(body)
        _DECODER.decode(body.decode())
    except _TwiceError as error:
        raise JSONBodyError("The body has the same name twice in one object: give each once.") from error
    except (ValueError, RecursionError) as error:
        raise JSONBodyError("The body is not JSON (RFC 8259) in UTF-8: send one JSON object.") from error


class _TwiceError(Exception):
    pass


def _no_name_twice(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise _TwiceError


_DECODER = json.JSONDecoder(object_pairs_hook=_no_name_twice)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed
