"""A toxic LLM server on loopback, in a thread with a loop of its own, for tests of the client and of whole gateways.

    with run_toxic() as llm:            # llm.base is the address for LLM_API_BASE
        llm.behave("trickle_body")      # from now on; "good" at the start
        llm.behave("reset", times=2)    # for the next two completions, then good

Speaks HTTP by hand, since most of what it does no server library would. `llm.asked` holds the bodies of completions,
`llm.models` is what it lists, `llm.connections` counts open ones, `llm.trapped` counts whoever followed a redirect. A
name in `TOXICS` says what is done to a plain and to a streamed completion, and as what a client must see each.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from lake.errors import BackendBadAnswer, BackendError, BackendOverloaded, BackendTimeout

ANSWER = ("물레", "를 ", "돌린다")
HUGE_BYTES = 100 << 20
_DRIP_S = 0.02


@dataclass
class Exchange:
    """One completion that was asked for."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    streamed: bool = False

    async def send(self, data: bytes) -> None:
        """Write, and wait until the peer has taken it."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self, body: bytes, status: int = 200, kind: str = "application/json", fields: str = "", more_bytes: int = 0
    ) -> None:
        """A whole response; `more_bytes` are promised by content-length and never come."""
        head = (
            f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body) + more_bytes}\r\n{fields}\r\n"
        )
        await self.send(head.encode() + body)

    async def begin_stream(self) -> None:
        """The head of a stream, in chunked coding."""
        await self.send(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")

    async def piece(self, data: bytes) -> None:
        """One chunk; an empty one ends the stream."""
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def hang(self) -> None:
        """Say nothing more until the peer goes."""
        while not self.reader.at_eof():
            await asyncio.sleep(_DRIP_S)

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def completion() -> bytes:
    """A plain answer."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "".join(ANSWER)}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    return orjson.dumps({"id": "x", "object": "chat.completion", "model": "toxic", "choices": [choice], "usage": usage})


def event(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    """One chunk of a streamed answer."""
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}
    body = {"id": "x", "object": "chat.completion.chunk", "model": "toxic", "choices": [choice], **more}
    return b"data: " + orjson.dumps(body) + b"\n\n"


async def _good(ask: Exchange) -> None:
    if not ask.streamed:
        await ask.answer(completion())
        return
    await ask.begin_stream()
    for text in ANSWER:
        await ask.piece(event(text))
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    await ask.piece(event(finish="stop") + event(usage=usage, choices=[]) + b"data: [DONE]\n\n")
    await ask.piece(b"")


async def _reset(ask: Exchange) -> None:
    ask.reset()


async def _close(ask: Exchange) -> None:
    ask.writer.close()


async def _hang(ask: Exchange) -> None:
    await ask.hang()


async def _hang_midway(ask: Exchange) -> None:
    await _begin(ask)
    await ask.hang()


async def _begin(ask: Exchange) -> None:
    """The first part of an answer."""
    if ask.streamed:
        await ask.begin_stream()
        await ask.piece(event(ANSWER[0]))
    else:
        await ask.answer(completion()[:40], more_bytes=1000)


async def _trickle_head(ask: Exchange) -> None:
    for byte in b"HTTP/1.1 200 X\r\n" + b"x-a: b\r\n" * 500:
        await ask.send(bytes([byte]))
        await asyncio.sleep(_DRIP_S)


async def _trickle_body(ask: Exchange) -> None:
    await _begin(ask)
    while True:
        await (ask.piece(b" ") if ask.streamed else ask.send(b" "))
        await asyncio.sleep(_DRIP_S)


async def _half_json(ask: Exchange) -> None:
    if not ask.streamed:
        await ask.answer(completion()[:50])
        return
    await ask.begin_stream()
    await ask.piece(event(ANSWER[0]) + event(ANSWER[1])[:30] + b"\n\n" + b"data: [DONE]\n\n")
    await ask.piece(b"")


async def _wrong_type(ask: Exchange) -> None:
    await ask.answer(b"<html><body>It works!</body></html>", kind="text/html")


async def _error_with_200(ask: Exchange) -> None:
    said = {"error": {"message": "CUDA out of memory", "code": 500}}
    if not ask.streamed:
        await ask.answer(orjson.dumps(said))
        return
    await ask.begin_stream()
    await ask.piece(event(ANSWER[0]) + b"data: " + orjson.dumps(said) + b"\n\n")
    await ask.piece(b"")


def _status(status: int, fields: str = "") -> Callable[[Exchange], Awaitable[None]]:
    async def answer(ask: Exchange) -> None:
        await ask.answer(b'{"error": {"message": "a fault that was ordered"}}', status, fields=fields)

    return answer


async def _redirect(ask: Exchange) -> None:
    host, port = ask.writer.get_extra_info("sockname")[:2]
    await ask.answer(b"", 307, fields=f"location: http://{host}:{port}/trap\r\n")


async def _huge(ask: Exchange) -> None:
    block = b" " * (1 << 16)
    if ask.streamed:
        await ask.begin_stream()
        await ask.piece(event(ANSWER[0]) + b"data: ")
    else:
        await ask.answer(b"", more_bytes=HUGE_BYTES)
    for _ in range(HUGE_BYTES >> 16):
        await (ask.piece(block) if ask.streamed else ask.send(block))


async def _compressed(ask: Exchange) -> None:
    body = event(ANSWER[0]) + b"data: [DONE]\n\n" if ask.streamed else completion()
    kind = "text/event-stream" if ask.streamed else "application/json"
    await ask.answer(gzip.compress(body), kind=kind, fields="content-encoding: gzip\r\n")


async def _early_close(ask: Exchange) -> None:
    await _begin(ask)
    ask.writer.close()


async def _early_reset(ask: Exchange) -> None:
    await _begin(ask)
    await asyncio.sleep(0.1)  # let it arrive: a reset takes back what the peer has not read
    ask.reset()


async def _early_end(ask: Exchange) -> None:
    """Correct HTTP, but the answer stops in its middle."""
    if not ask.streamed:
        await ask.answer(b'{"id": "x", "choices": []}')
        return
    await _begin(ask)
    await ask.piece(b"")


async def _not_http(ask: Exchange) -> None:
    await ask.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


@dataclass(frozen=True)
class Toxic:
    """What is done, and the exact error class that `LLMClient.chat` and `.stream` must end with."""

    act: Callable[[Exchange], Awaitable[None]]
    chat: type[BackendError]
    stream: type[BackendError]
    begins: bool = False  # a stream gives its first piece before it fails


TOXICS: dict[str, Toxic] = {
    "refuse": Toxic(_close, BackendError, BackendError),  # the port is closed: see ToxicServer.behave
    "reset": Toxic(_reset, BackendError, BackendError),
    "close": Toxic(_close, BackendError, BackendError),
    "hang": Toxic(_hang, BackendTimeout, BackendTimeout),
    "hang_midway": Toxic(_hang_midway, BackendTimeout, BackendTimeout, begins=True),
    "trickle_head": Toxic(_trickle_head, BackendTimeout, BackendTimeout),
    "trickle_body": Toxic(_trickle_body, BackendTimeout, BackendTimeout, begins=True),
    "half_json": Toxic(_half_json, BackendBadAnswer, BackendBadAnswer, begins=True),
    "wrong_type": Toxic(_wrong_type, BackendBadAnswer, BackendBadAnswer),
    "error_with_200": Toxic(_error_with_200, BackendError, BackendError, begins=True),
    "busy_429": Toxic(_status(429, "retry-after: 30\r\n"), BackendOverloaded, BackendOverloaded),
    "fails_500": Toxic(_status(500), BackendError, BackendError),
    "fails_503": Toxic(_status(503), BackendOverloaded, BackendOverloaded),
    "redirect": Toxic(_redirect, BackendBadAnswer, BackendBadAnswer),
    "huge": Toxic(_huge, BackendBadAnswer, BackendBadAnswer, begins=True),
    "compressed": Toxic(_compressed, BackendBadAnswer, BackendBadAnswer),
    "early_close": Toxic(_early_close, BackendBadAnswer, BackendBadAnswer, begins=True),
    "early_reset": Toxic(_early_reset, BackendBadAnswer, BackendBadAnswer, begins=True),
    "early_end": Toxic(_early_end, BackendBadAnswer, BackendBadAnswer, begins=True),
    "not_http": Toxic(_not_http, BackendBadAnswer, BackendBadAnswer),
}


@dataclass
class ToxicServer:
    """The server as a test sees it; its methods may be called from any thread."""

    base: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["toxic"])  # what /v1/models lists
    strict: bool = False  # models that are not listed are 404, as in vLLM
    connections: int = 0
    trapped: int = 0
    _loop: asyncio.AbstractEventLoop | None = None
    _listener: socket.socket | None = None
    _name: str = "good"
    _left: int | None = None  # completions until it is good again; None: for good
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def behave(self, name: str, times: int | None = None) -> None:
        """Do `name` (of `TOXICS`, or "good") to the next `times` completions; None: to all. Holds on return."""
        assert name == "good" or name in TOXICS, name
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._behave(name, times), self._loop).result(10)

    async def _behave(self, name: str, times: int | None) -> None:
        self._name, self._left = name, times
        if name == "refuse":
            await self._close()
        elif self._listener is None:
            self._listen()

    def _listen(self) -> None:
        """Accepts by hand: asyncio's server leaks connections that wait while it is closed (Python 3.11)."""
        port = int(self.base.rsplit(":", 1)[1].split("/")[0]) if self.base else 0
        listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        listener.setblocking(False)
        self.base = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        """Not by `sock_accept`: a connection that it has taken is lost where its task is cancelled just then."""
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        connection.setblocking(False)
        task = asyncio.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close(self) -> None:
        """Accept nothing more and end what is open: connections that are kept alive would still be served."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        await asyncio.sleep(0)  # every task has begun, so each closes its connection
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise
        self.connections += 1
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = await reader.readexactly(length)
                await self._respond(head.split(b" ")[1].decode("latin-1"), body, Exchange(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections -= 1
            if not writer.is_closing():  # what was closed in order may still have bytes to send
                writer.transport.abort()

    async def _respond(self, path: str, body: bytes, ask: Exchange) -> None:
        if not path.endswith("/chat/completions"):
            self.trapped += path == "/trap"
            known = path.endswith("/models")
            listed = {"data": [{"id": name, "parent": None} for name in self.models]} if known else {}
            await ask.answer(orjson.dumps(listed), 200 if known else 404)
            return
        asked = orjson.loads(body)
        self.asked.append(asked)
        if self.strict and asked["model"] not in self.models:
            await ask.answer(b'{"error": {"message": "The model does not exist."}}', 404)
            return
        act = _good if self._name == "good" else TOXICS[self._name].act
        if self._left is not None:
            self._left -= 1
            if self._left <= 0:
                self._name, self._left = "good", None
        ask.streamed = asked.get("stream") is True
        await act(ask)


@contextlib.contextmanager
def run_toxic() -> Iterator[ToxicServer]:
    """A server on a free port, good at first; ended with the block."""
    server = ToxicServer()

    async def end() -> None:
        await server._close()
        await asyncio.sleep(0)  # aborted transports close their sockets

    loop = server._loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="toxic", daemon=True)
    thread.start()
    try:
        server.behave("good")
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
