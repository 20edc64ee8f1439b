"""The outermost layer, pure ASGI: request ids, trace context, security headers, the access log and its metrics.

Our own ULID is the `X-Request-ID` of every response, and the id in the journal: an id that a client chose
could repeat, so it can't name a record. A client's id is echoed as `X-Client-Request-ID` where it is
harmless. `traceparent` is continued and answered (trace_context.py). Layers further in add to the answer by
`scope["state"]["answer_headers"]`. Invariant: no response leaves without an id.
"""

from __future__ import annotations

import re
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from gateway.metrics import GatewayMetrics
from gateway.trace_context import incoming

_SAFE_ID = re.compile(rb"^[A-Za-z0-9._:-]{1,64}$")
FIXED_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLLED = frozenset({"/livez", "/readyz", "/metrics"})
log = structlog.get_logger("gateway.http")


class EdgeMiddleware:
    """Wraps the whole app."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(ULID())
        client_ids: list[bytes] = []
        parents: list[bytes] = []
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                client_ids.append(value)
            elif name == b"traceparent":
                parents.append(value)
        # Two parents are as good as none: the specification asks for a new trace.
        trace = incoming(parents[0].decode("latin-1") if len(parents) == 1 else None)
        headers = [
            (b"x-request-id", request_id.encode()),
            (b"traceparent", trace.traceparent.encode()),
            *FIXED_HEADERS,
        ]
        state = scope.setdefault("state", {})
        state["client_request_id"] = None
        if len(client_ids) == 1 and _SAFE_ID.match(client_ids[0]):
            headers.append((b"x-client-request-id", client_ids[0]))
            state["client_request_id"] = client_ids[0].decode("ascii")
        state["request_id"] = request_id
        state["trace"] = trace
        state["answer_headers"] = headers

        structlog.contextvars.bind_contextvars(request_id=request_id, trace_id=trace.trace_id)
        began = time.perf_counter()
        status = 0  # the client left before there was an answer

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                state["answer_started"] = True
                own = list(message.get("headers", []))
                names = {name.lower() for name, _ in own}
                own += [(name, value) for name, value in headers if name not in names]
                message = {**message, "headers": own}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "none")  # a template: few values, whatever is asked for
            self._metrics.http_ended(scope["method"], route, status, seconds)
            # A search that was answered has a line of its own (turn_log.py), with more in it.
            if status != 200 or not state.get("accepted"):
                say = log.debug if route in _POLLED else log.info
                say("http", method=scope["method"], route=route, status=status, ms=round(seconds * 1000, 1))
