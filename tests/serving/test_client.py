"""The LLM client against a toxic server on loopback: always an answer or a typed error, always in time."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from lake.errors import BackendBadAnswer, BackendError, BackendOverloaded, BackendRefused, BackendTimeout
from serving.answers import ChatAnswer
from serving.backends import Backend
from serving.client import LLMClient

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Toxic = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]
MESSAGES = [{"role": "user", "content": "질문"}]
GOOD = orjson.dumps(
    {
        "model": "m",
        "choices": [{"message": {"role": "assistant", "content": "답"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    }
)


def response(body: bytes, status: int = 200, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def toxic_server(behave: Toxic) -> AsyncIterator[tuple[str, list[bytes]]]:
    """(base address, request heads seen); `behave` gets the number of the request, counted from 1."""
    heads: list[bytes] = []
    tasks: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)
                heads.append(head)
                await behave(reader, writer, len(heads))
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", heads
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def sends(data: bytes) -> Toxic:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        writer.write(data)
        await writer.drain()

    return behave


def call(
    behave: Toxic, *, deadline_s: float = 2.0, **options: Any
) -> tuple[ChatAnswer | BackendError, list[bytes], float]:
    """What one chat gives, the heads that the server saw, the seconds it took."""

    async def run() -> tuple[ChatAnswer | BackendError, list[bytes], float]:
        async with toxic_server(behave) as (base, heads):
            client = LLMClient(Backend("openai", base, "m", "key"), **options)
            start = time.monotonic()
            try:
                result: ChatAnswer | BackendError = await client.chat(MESSAGES, 8, deadline_s=deadline_s)
            except BackendError as error:
                result = error
            took_s = time.monotonic() - start
            await client.aclose()
            assert client.unfinished == 0
            return result, heads, took_s

    return asyncio.run(run())


def test_a_good_answer() -> None:
    result, heads, _ = call(sends(response(GOOD, content_type="application/json")))
    assert result == ChatAnswer("답", "stop", 5, 2, "m")
    head = heads[0].lower()
    assert b"post /v1/chat/completions" in head and b"authorization: bearer key" in head
    assert b"accept-encoding: identity" in head


DEEP = b"[" * 100_000
BAD_BODIES: dict[str, bytes] = {
    "half json": GOOD[: len(GOOD) // 2],
    "not json": b"<html>busy</html>",
    "empty": b"",
    "wrong type": b"[1, 2]",
    "null": b"null",
    "no choices": b'{"choices": []}',
    "choices of another type": b'{"choices": {"0": 1}}',
    "choice of another type": b'{"choices": ["x"]}',
    "null content": b'{"choices": [{"message": {"content": null}}]}',
    "number content": b'{"choices": [{"message": {"content": 5}}]}',
    "half a character": b'{"choices": [{"message": {"content": "\\ud800"}}]}',
    "not utf-8": b'{"choices": [{"message": {"content": "\xff"}}]}',
    "too deep": DEEP,
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_bodies_are_bad_answers(body: bytes) -> None:
    result, heads, _ = call(sends(response(body)))
    assert isinstance(result, BackendBadAnswer), result
    assert len(heads) == 1  # a bad answer is not asked for again


@pytest.mark.parametrize(
    ("status", "kind", "asked"),
    [
        (301, BackendBadAnswer, 1), (302, BackendBadAnswer, 1), (307, BackendBadAnswer, 1), (400, BackendRefused, 1),
        (401, BackendRefused, 1), (403, BackendRefused, 1), (404, BackendRefused, 1), (422, BackendRefused, 1),
        (429, BackendOverloaded, 3), (500, BackendError, 1), (502, BackendError, 1), (503, BackendOverloaded, 3),
    ],
)  # fmt: skip
def test_statuses(status: int, kind: type[BackendError], asked: int) -> None:
    data = response(b'{"error": {"message": "no\\nroom"}}', status, location="http://127.0.0.1:1/steal")
    result, heads, _ = call(sends(data))
    assert type(result) is kind and len(heads) == asked
    assert "\n" not in str(result)


def test_errors_with_status_200() -> None:
    result, _, _ = call(sends(response(b'{"error": "Model not loaded"}')))
    assert type(result) is BackendError and "Model not loaded" in str(result)


def test_retry_after_is_kept_and_never_beyond_the_deadline() -> None:
    async def busy_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(response(b"{}", 503, retry_after="1") if number == 1 else response(GOOD))

    result, heads, took_s = call(busy_once, deadline_s=5.0)
    assert isinstance(result, ChatAnswer) and len(heads) == 2 and took_s >= 1.0
    result, heads, took_s = call(sends(response(b"{}", 429, retry_after="3600")), deadline_s=2.0)
    assert isinstance(result, BackendOverloaded) and len(heads) == 1 and took_s < 1.0


def test_reset_connections_are_tried_again() -> None:
    async def reset_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        if number == 1:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            writer.write(response(GOOD))

    result, heads, _ = call(reset_once)
    assert isinstance(result, ChatAnswer) and len(heads) == 2

    async def always(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        writer.transport.abort()

    result, heads, _ = call(always)
    assert type(result) is BackendError and len(heads) == 3


def test_refused_connection(free_port: Callable[[], int]) -> None:
    async def run() -> None:
        client = LLMClient(Backend("openai", f"http://127.0.0.1:{free_port()}/v1", "m"))
        with pytest.raises(BackendError, match="No LLM server answers"):
            await client.chat(MESSAGES, 8, deadline_s=2.0)
        assert client.retries == 2
        await client.aclose()

    asyncio.run(run())


async def _hang(*_: object) -> None:
    await asyncio.sleep(30)


async def _hang_after_headers(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
    writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 100\r\n\r\n")
    await asyncio.sleep(30)


async def _trickle_body(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
    writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 10000\r\n\r\n")
    for _number in range(1000):
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _trickle_head(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
    for byte in b"HTTP/1.1 200 X\r\n" + b"x-a: b\r\n" * 200:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("behave", [_hang, _hang_after_headers, _trickle_body, _trickle_head])
def test_slow_servers_end_by_the_deadline(behave: Toxic) -> None:
    result, heads, took_s = call(behave, deadline_s=0.4)
    assert isinstance(result, BackendTimeout) and took_s < 1.2 and len(heads) == 1


def test_huge_answers_are_cut_off() -> None:
    sent = 0

    async def huge(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 100000000\r\n\r\n")
        for _number in range(1526):
            writer.write(b" " * 65536)
            sent += 65536
            await writer.drain()

    result, _, took_s = call(huge, deadline_s=10.0, max_response_bytes=1 << 20)
    assert isinstance(result, BackendBadAnswer) and "larger" in str(result)
    assert sent < 30_000_000 and took_s < 5


def test_compressed_and_broken_off_answers() -> None:
    result, _, _ = call(sends(response(gzip.compress(b" " * 10_000_000), content_encoding="gzip")))
    assert isinstance(result, BackendBadAnswer) and "compressed" in str(result)

    async def half(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        writer.write(b"HTTP/1.1 200 X\r\ncontent-length: 500\r\n\r\n" + GOOD)
        await writer.drain()
        writer.close()

    result, _, _ = call(half)
    assert isinstance(result, BackendBadAnswer) and "middle" in str(result)
    result, _, _ = call(sends(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"))
    assert isinstance(result, BackendError)


def test_callers_that_give_up_do_not_wedge_the_pool() -> None:
    """Many cancelled callers, then the next call succeeds: each closes its own connection and no other."""

    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        await asyncio.sleep(0.05)
        writer.write(response(GOOD))

    async def run() -> None:
        async with toxic_server(slow) as (base, _):
            client = LLMClient(Backend("openai", base, "m"), max_connections=4)
            for _number in range(10):
                calls = [asyncio.create_task(client.chat(MESSAGES, 8, deadline_s=5)) for _ in range(8)]
                await asyncio.sleep(0.01)
                for task in calls:
                    task.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
            for _number in range(3):
                assert (await client.chat(MESSAGES, 8, deadline_s=5)).text == "답"
            await client.aclose()

    asyncio.run(run())


def test_all_connections_busy_is_said() -> None:
    async def slow(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        await asyncio.sleep(2.6)
        writer.write(response(GOOD))

    async def run() -> None:
        async with toxic_server(slow) as (base, _):
            client = LLMClient(Backend("openai", base, "m"), max_connections=1)
            first = asyncio.create_task(client.chat(MESSAGES, 8, deadline_s=5))
            await asyncio.sleep(0.05)
            with pytest.raises(BackendOverloaded, match="All 1 connections"):
                await client.chat(MESSAGES, 8, deadline_s=5)
            assert (await first).text == "답"
            assert client.unfinished == 0
            await client.aclose()
            with pytest.raises(BackendError, match="was closed"):
                await client.chat(MESSAGES, 8)

    asyncio.run(run())


def test_the_environment_does_not_redirect_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    result, _, _ = call(sends(response(GOOD)))
    assert isinstance(result, ChatAnswer)


def test_a_probe_waits_for_a_model_that_is_loading() -> None:
    loading = response(b'{"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}', 503)

    async def loads(_: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(loading if number <= 4 else response(GOOD))

    async def run() -> None:
        async with toxic_server(loads) as (base, heads):
            client = LLMClient(Backend("llamacpp", base, "m"))
            with pytest.raises(BackendOverloaded, match="Loading model"):
                await client.probe(0.5)
            assert len(heads) == 3
            assert (await client.probe(10.0)).text == "답"
            await client.aclose()

    asyncio.run(run())


def test_models_and_probe() -> None:
    cards = orjson.dumps({"data": [{"id": "base"}, {"id": "a-1", "parent": "base", "root": "/x"}, {"id": 5}, "odd"]})

    async def both(_: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(response(cards) if number == 1 else response(GOOD))

    async def run() -> None:
        async with toxic_server(both) as (base, heads):
            client = LLMClient(Backend("vllm", base, "m"))
            assert [(card.id, card.parent) for card in await client.list_models()] == [("base", None), ("a-1", "base")]
            assert (await client.probe()).text == "답"
            assert heads[0].startswith(b"GET /v1/models") and heads[1].startswith(b"POST")
            await client.aclose()

    asyncio.run(run())
