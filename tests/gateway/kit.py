"""A stub of an OpenAI-compatible upstream, a gateway process and its journal, for the tests of this folder."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

from gateway.app import create_app
from gateway.parts import Config, Parts
from lake.journal.frames import Frame
from lake.journal.reader import read_segment
from lake.schemas.records import FrameKind
from lake.schemas.rows import Tool

ROOT = Path(__file__).resolve().parents[2]
PATH = "/api/v1/search"
SAMPLE = ROOT / "data" / "sample" / "catalog.jsonl"


def sample_tools(ids: set[str] | None = None) -> list[Tool]:
    """Tools of the sample catalogue."""
    rows = [orjson.loads(line) for line in SAMPLE.read_bytes().splitlines()]
    return [
        Tool(
            id=row["id"], name=row["name"], description=row["description_ko"], url=row["url"],
            category=row["category"], tags=tuple(row["tags"]), aliases=tuple(row["aliases"]),
            description_ko=row["description_ko"], description_en=row["description_en"],
        )
        for row in rows
        if ids is None or row["id"] in ids
    ]  # fmt: skip


TOOL_IDS = {"figma", "jira", "notion", "zoom", "docker", "sqlite", "papago", "obs-studio", "github", "canva"}


@dataclass
class Upstream:
    """What the stub does and what it has seen. `status` other than 200 makes every completion fail.

    A stream sends `pieces`, each after `delay_s`; `break_after` closes the connection after so many. `hung_up`: streams
    whose reader went before the end.
    """

    name: str
    delay_s: float = 0.0
    pieces: tuple[str, ...] = ("answer ", "of ", "화면")
    break_after: int | None = None
    hung_up: int = 0
    status: int = 200
    base: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    auth: list[str] = field(default_factory=list)
    traceparents: list[str] = field(default_factory=list)


@contextlib.contextmanager
def run_upstream(name: str, delay_s: float = 0.0) -> Iterator[Upstream]:
    """An OpenAI-compatible server on a free port, in a thread with a loop of its own."""
    state = Upstream(name, delay_s)
    started = threading.Event()
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *rest = head.decode("latin-1").split("\r\n")
                headers = {key.lower(): value for key, _, value in (entry.partition(": ") for entry in rest if entry)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                status, answer = 404, {"error": "no such path"}
                if "/v1/models" in line:
                    status, answer = 200, {"object": "list", "data": [{"id": state.name}]}
                elif "/chat/completions" in line:
                    asked = orjson.loads(body)
                    state.seen.append(asked)
                    state.auth.append(headers.get("authorization", ""))
                    state.traceparents.append(headers.get("traceparent", ""))
                    if asked.get("stream") and state.status == 200:
                        await _stream(state, asked, writer)
                        return
                    await asyncio.sleep(state.delay_s)
                    status, answer = state.status, _completion(state.name, asked)
                data = orjson.dumps(answer)
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
                    f"content-length: {len(data)}\r\n\r\n".encode()
                    + data
                )
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        state.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        started.set()
        async with server:
            await server.serve_forever()

    def run() -> None:
        asyncio.set_event_loop(loop)
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        pending = asyncio.all_tasks(loop)
        for other in pending:
            other.cancel()
        loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()

    task = loop.create_task(main())
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(5)
    try:
        yield state
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(5)


async def _stream(state: Upstream, asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    """Server-Sent Events until the end of the connection, as llama.cpp and vLLM send them."""

    def chunk(delta: dict[str, Any], finish: str | None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        body = {"id": "x", "object": "chat.completion.chunk", "model": asked["model"], "choices": [choice], **more}
        return b"data: " + orjson.dumps(body) + b"\n\n"

    try:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        writer.write(chunk({"role": "assistant", "content": ""}, None))
        for number, piece in enumerate(state.pieces):
            if number == state.break_after:
                return
            await asyncio.sleep(state.delay_s)
            writer.write(chunk({"content": piece}, None))
            await writer.drain()
        writer.write(chunk({}, "stop"))
        usage = {"prompt_tokens": 7, "completion_tokens": len(state.pieces), "total_tokens": 7 + len(state.pieces)}
        writer.write(chunk({}, None, choices=[], usage=usage) + b"data: [DONE]\n\n")
        await writer.drain()
    except ConnectionError:
        state.hung_up += 1


def _completion(name: str, asked: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "x", "object": "chat.completion", "model": asked["model"],
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": f"answer of {name}"}}
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }  # fmt: skip


@dataclass
class Gateway:
    """A gateway process."""

    process: subprocess.Popen[str]
    url: str
    data_dir: Path

    def journal(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(request halves, response halves) by request id, from every segment."""
        return read_journal(self.data_dir / "journal")

    def stop(self, timeout_s: float = 40.0) -> int:
        """SIGTERM and wait; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


def read_journal(root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(request halves, response halves) by request id; fails on a duplicate."""
    requests: dict[str, Any] = {}
    responses: dict[str, Any] = {}
    for path in sorted(root.glob("*/*.mjl")):
        for frame in read_segment(path):
            assert isinstance(frame, Frame), frame
            into = {FrameKind.REQUEST: requests, FrameKind.RESPONSE: responses}.get(FrameKind(frame.kind))
            if into is not None:
                row = orjson.loads(frame.payload)
                assert row["request_id"] not in into
                into[row["request_id"]] = row
    return requests, responses


def wait_until(done: Callable[[], bool], timeout_s: float = 15.0) -> None:
    """Poll until `done`; connection errors count as not yet."""
    end = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if done():
                return
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@contextlib.asynccontextmanager
async def running(config: Config, **options: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Parts]]:
    """A started app and a client that calls it without a network."""
    parts = Parts(config, **options)
    app = create_app(config, parts)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=20) as client:
            yield client, parts


def run(config: Config, work: Callable[[httpx.AsyncClient, Parts], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with running(config, **options) as (client, parts):
            await work(client, parts)

    asyncio.run(main())
