"""A closed loop of N keep-alive connections, each sending its next request when its answer is whole.

Run by the bench: `python -m tests.bench.gateway.load URL BODY CONNECTIONS SECONDS`; prints one JSON line. `BODY` holds
`%06d`, which becomes the number of the request: no two questions are the same, so that no cache makes up the figure.
A raw protocol on uvloop; answers are read by Content-Length or by chunks. Anything but 200 counts as an error.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import orjson
import uvloop


@dataclass
class Run:
    """What all connections share: the request in pieces, when to stop, what was seen."""

    before: bytes
    after: bytes
    numbers: itertools.count[int]
    latencies_s: list[float] = field(default_factory=list[float])
    errors: int = 0
    first_error: str = ""
    measuring: bool = False
    stopped: bool = False

    def next_request(self) -> bytes:
        return self.before + b"%06d" % (next(self.numbers) % 1_000_000) + self.after


class Connection(asyncio.Protocol):
    """Sends, waits for the whole answer, sends again."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own, not a subclass
        self._send()

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._run.next_request())

    def data_received(self, data: bytes) -> None:
        self._data = self._data + data if self._data else data
        head = self._data.find(b"\r\n\r\n")
        if head < 0:
            return
        lower = self._data[:head].lower()
        at = lower.find(b"content-length:")
        if at >= 0:
            whole = len(self._data) >= head + 4 + int(lower[at + 15 :].split(b"\r\n", 1)[0])
        else:
            whole = self._data.endswith(b"0\r\n\r\n")
        if not whole:
            return
        run = self._run
        if run.measuring:
            run.latencies_s.append(time.perf_counter() - self._began)
            if not lower.startswith(b"http/1.1 200"):
                run.errors += 1
                run.first_error = run.first_error or self._data[:400].decode("utf-8", "replace")
        self._data = b""
        if not run.stopped:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._run.stopped:
            self._run.errors += 1
            self._run.first_error = self._run.first_error or f"the connection was closed ({exc})"


async def _load(url: str, body: bytes, connections: int, seconds: float) -> dict[str, object]:
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    before, after = body.split(b"%06d")
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(before) + 6 + len(after)}\r\n\r\n"
    ).encode()
    run = Run(head + before, after, itertools.count())
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Connection(run), parts.hostname, parts.port) for _ in range(connections)
    ]
    await asyncio.sleep(min(0.5, seconds / 4))  # warm: connections of the server to its upstream are open too
    run.measuring = True
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    taken_s = time.perf_counter() - began
    run.measuring, run.stopped = False, True
    for transport, _ in opened:
        transport.abort()
    ordered = sorted(run.latencies_s) or [0.0]
    return {
        "requests": len(run.latencies_s),
        "per_s": (len(run.latencies_s) - run.errors) / taken_s,
        "p50_ms": statistics.median(ordered) * 1000,
        "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000,
        "errors": run.errors,
        "first_error": run.first_error,
    }


if __name__ == "__main__":
    target, sent, count, length = sys.argv[1:5]
    print(orjson.dumps(uvloop.run(_load(target, sent.encode(), int(count), float(length)))).decode())
