"""The outermost layer, pure ASGI: request ids, bounded bodies, security headers, a last net for errors.

Our own ULID is the `X-Request-ID` of every response, and the id in the journal: an id that a client chose
could repeat, so it can't name a record. A client's id is echoed as `X-Client-Request-ID` where it is
harmless. Invariant: the app inside never sees more than `max_body_bytes` of a body, and no response leaves
without an id.
"""

from __future__ import annotations

import asyncio
import re

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from gateway.metrics import GatewayMetrics
from gateway.problems import MEDIA_TYPE, problem_body

_SAFE_ID = re.compile(rb"^[A-Za-z0-9._:-]{1,64}$")
_FIXED_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
log = structlog.get_logger("gateway.http")


class _Refused(Exception):
    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class _ClientGone(Exception):
    """The client closed the connection before its body was whole."""


class EdgeMiddleware:
    """Wraps the whole app."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics, max_body_bytes: int, body_timeout_s: float) -> None:
        self._app = app
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(ULID())
        scope.setdefault("state", {})["request_id"] = request_id
        headers = [(b"x-request-id", request_id.encode()), *_FIXED_HEADERS]
        client_id = _header(scope, b"x-request-id")
        if client_id is not None and _SAFE_ID.match(client_id):
            headers.append((b"x-client-request-id", client_id))
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                own = list(message.get("headers", []))
                names = {name.lower() for name, _ in own}
                own += [(name, value) for name, value in headers if name not in names]
                message = {**message, "headers": own}
                self._metrics.http.labels(str(message["status"])).inc()
            await send(message)

        try:
            body = await self._body(scope, receive)
            await self._app(scope, _replay(body, receive), send_with_headers)
        except _ClientGone:
            return
        except _Refused as refused:
            self._metrics.refused.labels(refused.code).inc()
            await _answer(send_with_headers, refused.status, refused.code, refused.detail, request_id)
        except Exception:
            if not started:  # Starlette's own handler answers first; this is for errors outside it
                log.exception("unexpected_error", request_id=request_id)
                detail = "Something failed on our side: try again, and report the request_id if it stays."
                await _answer(send_with_headers, 500, "internal", detail, request_id)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        length = _header(scope, b"content-length")
        if length is not None and (not length.isdigit() or int(length) > self._max_body_bytes):
            raise self._too_large()
        if length in (None, b"0") and _header(scope, b"transfer-encoding") is None:
            return b""
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGone
                    size += len(message.get("body", b""))
                    if size > self._max_body_bytes:
                        raise self._too_large()
                    pieces.append(message.get("body", b""))
                    if not message.get("more_body", False):
                        return b"".join(pieces)
        except TimeoutError as error:
            detail = f"The request body did not arrive within {self._body_timeout_s:.0f} s: send it in one go."
            raise _Refused(408, "body_timeout", detail) from error

    def _too_large(self) -> _Refused:
        return _Refused(
            413,
            "body_too_large",
            f"The request body is larger than {self._max_body_bytes} bytes: shorten it.",
        )


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed


async def _answer(send: Send, status: int, code: str, detail: str, request_id: str) -> None:
    body = problem_body(status, code, detail, request_id)
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if status in (408, 413):  # the rest of the body was not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
