"""One TCP connection against the guarded protocol over a tiny application: heads, times, sizes, ambiguities."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import uvicorn

from gateway.access_settings import AccessSettings
from gateway.http_protocol import guarded_protocol
from gateway.metrics import GatewayMetrics

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"


class Echo:
    """Answers the method, the path and the number of body bytes; `/late` waits until `go` is set; `/big` is 8 MB."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        while scope["path"] == "/late" and not self.go.is_set():
            await asyncio.sleep(0.01)
        body = f"{scope['method']} {scope['path']} {size}".encode()
        if scope["path"] == "/big":
            body = b"x" * (8 << 20)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


class Server:
    """A uvicorn with the guarded protocol on a free port, in a thread."""

    def __init__(self, **limits: Any) -> None:
        self.app = Echo()
        self.metrics = GatewayMetrics()
        protocol = guarded_protocol(AccessSettings(**limits), self.metrics, max_body_bytes=1000)
        self._server = uvicorn.Server(
            uvicorn.Config(self.app, http=protocol, ws="none", lifespan="off", loop="uvloop", log_level="critical")
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(5)
        self._listener.close()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def refused(self, code: str) -> float:
        return self.metrics.registry.get_sample_value("mulle_refused_requests_total", {"code": code}) or 0.0


@contextlib.contextmanager
def serve(**limits: Any) -> Iterator[Server]:
    server = Server(**limits)
    try:
        yield server
    finally:
        server.close()


def rest(raw: socket.socket) -> bytes:
    """Everything until the server closes."""
    pieces: list[bytes] = []
    with contextlib.suppress(ConnectionResetError):
        while piece := raw.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def talk(server: Server, data: bytes) -> bytes:
    with server.connect() as raw:
        raw.sendall(data)
        return rest(raw)


def problem(reply: bytes) -> dict[str, Any]:
    """The one problem that a reply consists of."""
    head, _, body = reply.partition(b"\r\n\r\n")
    assert len(re.findall(rb"HTTP/1\.1 [0-9]{3} ", reply)) == 1, reply
    assert b"content-type: application/problem+json" in head and b"connection: close" in head, reply
    found = orjson.loads(body)
    assert head.startswith(b"HTTP/1.1 %d " % found["status"]) and found["detail"]
    assert re.search(rb"x-request-id: (\w{26})", head)[1].decode() == found["request_id"]  # type: ignore[index]
    return found


AMBIGUOUS: dict[str, tuple[bytes, int]] = {
    "length and chunked": (GET + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and length": (GET + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (GET + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "length twice in one": (GET + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "signed length": (GET + b"Content-Length: +3\r\n\r\nabc", 400),
    "negative length": (GET + b"Content-Length: -3\r\n\r\nabc", 400),
    "endless length": (GET + b"Content-Length: 99999999999999999999999\r\n\r\nabc", 400),
    "unknown coding": (GET + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "two codings": (GET + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "coding before a colon": (GET + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked in 1.0": (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    "folded header": (GET + b"X: 1\r\n 2\r\n\r\n", 400),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: localhost\n\n", 400),
    "NUL in a header": (GET + b"X: a\x00b\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + b"Host: localhost\r\n\r\n", 400),
    "host with a path": (b"GET / HTTP/1.1\r\nHost: localhost/x\r\n\r\n", 400),
    "host with a user": (b"GET / HTTP/1.1\r\nHost: a@localhost\r\n\r\n", 400),
    "empty host": (b"GET / HTTP/1.1\r\nHost: \r\n\r\n", 400),
    "other host in the URL": (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "URL without a path": (b"GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "bytes in the path": (b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "space in the path": (b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "tunnel": (b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/2 by hand": (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "unknown method": (b"FOO / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "bad chunk size": (GET + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(max_head_bytes=2048, max_url_bytes=512, header_timeout_s=0.5, keep_alive_timeout_s=0.3) as running:
        yield running


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_could_be_read_two_ways_is_refused(server: Server, name: str) -> None:
    data, status = AMBIGUOUS[name]
    assert problem(talk(server, data))["status"] == status
    after = talk(server, GET + b"Connection: close\r\n\r\n")
    assert after.endswith(b"GET / 0")


def test_a_request_hidden_in_another_is_not_answered(server: Server) -> None:
    hidden = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for head in (
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    ):
        talk(server, GET + head + hidden)
    assert [scope["path"] for scope in server.app.seen if "hidden" in scope["path"]] == []


def test_upgrade_is_answered_in_http_1_and_closed(server: Server) -> None:
    with server.connect() as raw:
        raw.sendall(GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        raw.sendall(b"\x81\x05hello")
        reply = rest(raw)
    assert reply.startswith(b"HTTP/1.1 200 ") and b"connection: close" in reply and reply.endswith(b"GET / 0")


def test_sizes(server: Server) -> None:
    assert problem(talk(server, GET + b"X: " + b"a" * 2100 + b"\r\n\r\n"))["code"] == "head_too_large"
    assert problem(talk(server, GET + b"X: 1\r\n" * 400 + b"\r\n"))["code"] == "head_too_large"
    assert problem(talk(server, b"GET /" + b"a" * 600 + b" HTTP/1.1\r\n"))["code"] == "url_too_long"
    fits = GET + b"X: " + b"a" * 1900 + b"\r\nConnection: close\r\n\r\n"
    assert talk(server, fits).endswith(b"GET / 0")


def test_an_endless_header_is_cut_off_and_not_kept(server: Server) -> None:
    with server.connect() as raw:
        raw.sendall(GET + b"X: ")
        with contextlib.suppress(OSError):
            for _ in range(200):
                raw.sendall(b"a" * 65536)
        reply = rest(raw)
    assert not reply or problem(reply)["code"] == "head_too_large"  # a reset may overtake the answer
    assert server.refused("head_too_large") >= 1


def test_endless_chunk_headers_and_trailers_are_cut_off(server: Server) -> None:
    before = server.refused("body_too_large")
    for start, piece in ((b"1;a=", b"b" * 1000), (b"0\r\n", b"X: " + b"b" * 1000 + b"\r\n")):
        with server.connect() as raw, contextlib.suppress(OSError):
            raw.sendall(GET.replace(b"GET", b"POST") + b"Transfer-Encoding: chunked\r\n\r\n" + start)
            for _ in range(100):
                raw.sendall(piece)
            rest(raw)
    assert server.refused("body_too_large") == before + 2


def test_trailers_are_no_headers(server: Server) -> None:
    chunked = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
    assert talk(server, b"POST /trailer HTTP/1.1\r\nHost: localhost\r\n" + chunked).endswith(b"POST /trailer 3")
    scope = next(scope for scope in server.app.seen if scope["path"] == "/trailer")
    assert b"authorization" not in dict(scope["headers"])


def test_slow_heads_are_ended(server: Server) -> None:
    """A head that trickles, one that stops, line ends without a request, and silence."""
    with server.connect() as raw:
        for _ in range(200):
            try:
                raw.sendall(b"GET / HTTP/1.1\r\nX: "[:1] if _ == 0 else b"E")
            except OSError:
                break
            time.sleep(0.02)
        else:
            raise AssertionError("a trickling head was let go on")
    with server.connect() as raw:
        raw.sendall(GET)
        assert problem(rest(raw))["code"] == "head_timeout"
    with server.connect() as raw:
        assert rest(raw) == b""
    with server.connect() as raw:
        for _ in range(200):
            try:
                raw.sendall(b"\r\n")
            except OSError:
                break
            time.sleep(0.02)
        else:
            raise AssertionError("empty lines kept a connection")


def test_keep_alive_reuses_and_then_ends_an_idle_connection(server: Server) -> None:
    with server.connect() as raw:
        for number in range(3):
            raw.sendall(b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % number)
            reply = b""
            while not reply.endswith(b"GET /%d 0" % number):
                reply += raw.recv(65536)
        assert rest(raw) == b""
    with server.connect() as raw:  # the head of a second request is slow too
        raw.sendall(GET + b"\r\n")
        raw.recv(65536)
        raw.sendall(b"GET / HT")
        assert problem(rest(raw))["code"] == "head_timeout"


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    lines = [b"GET /%d HTTP/1.1\r\nHost: localhost\r\n" % number for number in range(20)]
    reply = talk(server, b"\r\n".join(lines) + b"Connection: close\r\n\r\n")
    assert re.findall(rb"GET /(\d+) 0", reply) == [b"%d" % number for number in range(20)]


def test_a_bad_request_behind_a_good_one_does_not_write_into_its_answer() -> None:
    with serve() as server, server.connect() as raw:
        raw.sendall(b"GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"NONSENSE\r\n\r\n")
        server.app.go.set()
        reply = rest(raw)
    assert reply == b"" or (reply.startswith(b"HTTP/1.1 200 ") and reply.count(b"HTTP/1.1") == 1)


def test_a_slow_request_outlives_the_time_for_heads() -> None:
    with serve(header_timeout_s=0.1) as server, server.connect() as raw:
        raw.sendall(b"GET /late HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\nGET")
        time.sleep(0.4)
        server.app.go.set()
        assert rest(raw).endswith(b"GET /late 0")


def test_connections_beyond_the_limit_are_told_and_closed() -> None:
    with serve(max_connections=2) as server:
        held = [server.connect() for _ in range(2)]
        for raw in held:
            raw.sendall(b"GET /late HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while len(server.app.seen) < 2:
            time.sleep(0.01)
        found = problem(talk(server, GET + b"\r\n"))
        assert found["status"] == 503 and found["code"] == "overloaded"
        server.app.go.set()
        for raw in held:
            raw.close()
        deadline = time.monotonic() + 5
        while b" 200 " not in (reply := talk(server, GET + b"Connection: close\r\n\r\n")):
            assert time.monotonic() < deadline, reply


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    with serve(write_timeout_s=0.3) as server, server.connect() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline = time.monotonic() + 10
        while server.refused("write_timeout") == 0:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert len(rest(raw)) < 8 << 20


def test_head_method_has_no_body(server: Server) -> None:
    reply = talk(server, b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 200 ") and reply.endswith(b"\r\n\r\n")
