"""What one TCP connection may do before any request exists: uvicorn's HTTP/1.1 protocol with limits of time and size.

uvicorn bounds neither the time nor the size of a request's head, answers its own refusals as plain text, and takes
requests that two parties could read differently. Here a head that is late (slow loris), long or ambiguous, a second
Host, Transfer-Encoding other than `chunked`, and a connection too many are answered with problem+json and closed; a
client that stops reading is cut off. Invariant: nothing is written into the middle of another request's answer.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import structlog
from ulid import ULID
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gateway.access_settings import AccessSettings
from gateway.auth import HOST
from gateway.metrics import GatewayMetrics
from gateway.middleware import FIXED_HEADERS
from gateway.problems import MEDIA_TYPE, problem_fields

_ABSOLUTE = re.compile(rb"^https?://([^/?#]*)", re.IGNORECASE)
log = structlog.get_logger("gateway.http")


class _Refused(Exception):
    """Ends the parsing of a connection; the answer is in `GuardedProtocol._refusal`."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `limits`, `metrics` and `max_message_bytes` are set by `guarded_protocol`."""

    limits: AccessSettings
    metrics: GatewayMetrics
    max_message_bytes: int  # of one request on the wire, chunk headers and trailers included

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.timeout_keep_alive = self.limits.keep_alive_timeout_s  # type: ignore[assignment]
        self._in_head = True
        self._head_bytes = 0
        self._wire_bytes = 0
        self._over = False  # a connection too many
        self._refusal: tuple[int, str, str] | None = None
        self._closed = False  # the connection ends after this answer: what still arrives is not looked at
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        most = self.limits.max_connections
        if len(self.connections) > most:
            if len(self.connections) > most + max(64, most // 8):
                self.metrics.refused.labels("connections").inc()
                transport.abort()
                return
            self._over = True
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        if self._in_head and self._head_timer is None:
            self._start_head_timer()
        self._wire_bytes += len(data)
        super().data_received(data)
        if self._closed:
            return
        if self._in_head and self._wire_bytes > self.limits.max_head_bytes + self.limits.max_url_bytes:
            # The parser tells a header only when it is whole: one that never ends is noticed here.
            self._refuse_now(431, "head_too_large", f"The head is larger than {self.limits.max_head_bytes} bytes.")
        elif not self._in_head and self._wire_bytes > self.max_message_bytes:
            self._refuse_now(413, "body_too_large", "The request is too large: shorten it.")

    # --- the parser's callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self.limits.max_url_bytes:
            self._refuse(414, "url_too_long", f"The URL is longer than {self.limits.max_url_bytes} bytes: shorten it.")

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: uvicorn would add it to the headers of a request that is already judged
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self.limits.max_head_bytes:
            self._refuse(431, "head_too_large", f"The head is larger than {self.limits.max_head_bytes} bytes.")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        self._in_head = False
        if self._over:
            self._refuse(503, "overloaded", "Too many connections: try again in a few seconds.")
        self._judge()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True
        self._wire_bytes = 0

    def _judge(self) -> None:
        """Refuse a head that a proxy in front and this server could understand differently (RFC 9112, sections 2.3,
        3.2 and 6.1). The parser itself refuses Content-Length beside Transfer-Encoding, and either given twice.
        """
        version = self.parser.get_http_version()  # type: ignore[union-attr]
        if version not in ("1.1", "1.0"):
            self._refuse(505, "http_version", "Speak HTTP/1.1.")
        hosts: list[bytes] = []
        for name, value in self.headers:
            if name == b"host":
                hosts.append(value)
            elif name == b"transfer-encoding" and (value.lower() != b"chunked" or version == "1.0"):
                self._refuse(501, "transfer_encoding", "Transfer-Encoding other than chunked is not understood.")
        if len(hosts) > 1 or (not hosts and version == "1.1") or (hosts and not HOST.match(hosts[0])):
            self._refuse(400, "bad_host", "A request has one Host header: a name or address, and a port.")
        absolute = _ABSOLUTE.match(self.url)
        if absolute and (not hosts or absolute[1].lower() != hosts[0].lower()):
            self._refuse(400, "bad_host", "The URL and the Host header name different hosts.")

    def _unsupported_upgrade_warning(self) -> None:
        """Answer in HTTP/1.1 and close: what follows an upgrade that was not made is in an unknown protocol."""
        self._closed = True
        if self.cycle is not None:
            self.cycle.keep_alive = False

    # --- refusals

    def _refuse(self, status: int, code: str, detail: str) -> None:
        """From a callback of the parser: it stops, and `send_400_response` answers."""
        self._refusal = (status, code, detail)
        raise _Refused

    def _refuse_now(self, status: int, code: str, detail: str) -> None:
        self._refusal = (status, code, detail)
        self.send_400_response("")

    def send_400_response(self, msg: str) -> None:
        """The answer to whatever can't be a request; closes the connection. Says nothing where another answer is
        under way on it.
        """
        status, code, detail = self._refusal or (400, "bad_request", "This is not an HTTP/1.1 request.")
        self._closed = True
        self._stop_head_timer()
        self.metrics.refused.labels(code).inc()
        if not self._answering():
            self.metrics.http_ended("other", "none", status, 0.0)
            self.transport.write(_raw_answer(status, code, detail))
        self.transport.close()

    def _answering(self) -> bool:
        """Whether a request on this connection is being worked on or answered."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        return bool(self.pipeline) or self.cycle.response_started or not self.cycle.more_body

    # --- timers

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        limit_s = self.limits.header_timeout_s
        self._head_timer = self.loop.call_later(min(limit_s, 2.0) if self._over else limit_s, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._closed or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._start_head_timer()  # reading may be paused while the request before is worked on
        elif self._wire_bytes == 0:
            self.transport.close()  # nothing was asked
        else:
            detail = f"The head of the request did not arrive within {self.limits.header_timeout_s:.0f} s."
            self._refuse_now(408, "head_timeout", detail)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_write_timer()
        self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self._reader_is_stuck)

    def resume_writing(self) -> None:
        self._stop_write_timer()
        super().resume_writing()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _reader_is_stuck(self) -> None:
        self.metrics.refused.labels("write_timeout").inc()
        self.transport.abort()


def _raw_answer(status: int, code: str, detail: str) -> bytes:
    request_id = str(ULID())
    body = orjson.dumps(problem_fields(status, code, detail, request_id))
    fields = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"x-request-id", request_id.encode()),
        *FIXED_HEADERS,
    ]
    if status == 503:
        fields.append((b"retry-after", b"5"))
    head = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    return STATUS_LINE[status] + head + b"\r\n" + body


def guarded_protocol(limits: AccessSettings, metrics: GatewayMetrics, max_body_bytes: int) -> type[GuardedProtocol]:
    """The class for `uvicorn.Config(http=...)`. A body may take eight times its size on the wire: chunks of a byte
    cost six.
    """

    class Protocol(GuardedProtocol):
        """One connection of this gateway."""

    Protocol.limits = limits
    Protocol.metrics = metrics
    Protocol.max_message_bytes = 8 * max_body_bytes + limits.max_head_bytes
    return Protocol
