"""Streams of the LLM client: pieces as they come, one whole answer, tried again only before the first piece."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import orjson
import pytest

from lake.errors import BackendBadAnswer, BackendError, BackendRefused, BackendTimeout
from serving.answers import ChatAnswer
from serving.backends import Backend
from serving.client import LLMClient
from tests.serving.test_chat_stream import USAGE, VLLM, chunk, sse
from tests.serving.test_client import GOOD, MESSAGES, Toxic, response, toxic_server

HEAD = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream; charset=utf-8\r\nconnection: close\r\n\r\n"


def writes(*parts: bytes | float, then_hang: bool = False) -> Toxic:
    """Sends bytes, waits where a number stands, then closes (or says nothing more)."""

    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        for part in parts:
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            else:
                await asyncio.sleep(part)
        if then_hang:
            await asyncio.sleep(30)
        writer.close()

    return behave


async def collect(client: LLMClient, deadline_s: float = 2.0) -> tuple[list[str], ChatAnswer | BackendError]:
    """(pieces, answer or error); fails where anything follows the answer."""
    pieces: list[str] = []
    answer: ChatAnswer | None = None
    try:
        async for piece in client.stream(MESSAGES, 8, deadline_s=deadline_s):
            assert answer is None
            if isinstance(piece, ChatAnswer):
                answer = piece
            else:
                pieces.append(piece)
    except BackendError as error:
        return pieces, error
    assert answer is not None and answer.text == "".join(pieces)
    return pieces, answer


def stream(behave: Toxic, deadline_s: float = 2.0) -> tuple[list[str], ChatAnswer | BackendError, list[bytes]]:
    async def run() -> tuple[list[str], ChatAnswer | BackendError, list[bytes]]:
        async with toxic_server(behave) as (base, heads):
            client = LLMClient(Backend("vllm", base, "m", "key"))
            pieces, result = await collect(client, deadline_s)
            assert client.unfinished == 0
            await client.aclose()
            return pieces, result, heads

    return asyncio.run(run())


def test_pieces_come_before_the_answer_is_whole() -> None:
    async def run() -> None:
        released = asyncio.Event()

        async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
            writer.write(HEAD + sse(chunk("하나")))
            await released.wait()
            writer.write(sse(chunk("둘", "stop"), USAGE, "data: [DONE]"))
            writer.close()

        async with toxic_server(behave) as (base, _):
            client = LLMClient(Backend("vllm", base, "m"))
            seen: list[object] = []
            async for piece in client.stream(MESSAGES, 8):
                seen.append(piece)
                released.set()  # the server goes on only once the first piece was read
            assert seen == ["하나", "둘", ChatAnswer("하나둘", "stop", 5, 2, "m")]
            await client.aclose()

    asyncio.run(run())


def test_an_answer_that_is_not_streamed_is_one_piece() -> None:
    pieces, result, _ = stream(writes(response(GOOD, content_type="application/json")))
    assert pieces == ["답"] and result == ChatAnswer("답", "stop", 5, 2, "m")
    _, result, _ = stream(writes(response(b'{"error": "No models loaded"}', content_type="application/json")))
    assert type(result) is BackendError and "No models loaded" in str(result)


def test_tried_again_only_before_the_first_piece() -> None:
    async def breaks_first(_: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        promised = HEAD.replace(b"connection: close", b"content-length: 9999")
        writer.write(promised + sse(chunk("")) if number == 1 else HEAD + VLLM)
        await writer.drain()
        writer.close()

    pieces, result, heads = stream(breaks_first)
    assert isinstance(result, ChatAnswer) and pieces == ["안녕", " 🙂"] and len(heads) == 2

    async def breaks_later(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        writer.write(HEAD.replace(b"connection: close", b"content-length: 9999") + sse(chunk("반")))
        await writer.drain()
        writer.close()

    pieces, result, heads = stream(breaks_later)
    assert pieces == ["반"] and isinstance(result, BackendBadAnswer) and len(heads) == 1
    assert result.detail["partial"] == "반"


def test_a_server_that_stops_talking() -> None:
    pieces, result, _ = stream(writes(HEAD, sse(chunk("반")), then_hang=True), deadline_s=0.4)
    assert pieces == ["반"] and isinstance(result, BackendTimeout) and result.detail["partial"] == "반"
    # a finish reason has come: the text is whole, whatever becomes of usage and [DONE]
    pieces, result, _ = stream(writes(HEAD, sse(chunk("전부", "stop")), then_hang=True), deadline_s=0.4)
    assert pieces == ["전부"] and result == ChatAnswer("전부", "stop", None, None, "m")


def test_a_server_that_does_not_know_stream_options_is_asked_without() -> None:
    bodies: list[dict[str, object]] = []

    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        if number == 1:
            writer.write(response(b'{"error": {"message": "Extra inputs: stream_options"}}', 422))
        else:
            writer.write(HEAD.replace(b"connection: close\r\n", b"transfer-encoding: chunked\r\n"))
            writer.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(VLLM), VLLM))

    async def run() -> None:
        async with toxic_server(refuses) as (base, heads):
            client = LLMClient(Backend("openai", base, "m"))
            original = client._body

            def noted(*args: object, **more: object) -> bytes:
                body = original(*args, **more)  # type: ignore[arg-type]
                bodies.append(orjson.loads(body))
                return body

            client._body = noted  # type: ignore[method-assign]
            for _ in range(2):
                assert isinstance((await collect(client))[1], ChatAnswer)
            assert ["stream_options" in body for body in bodies] == [True, False, False] and len(heads) == 3
            await client.aclose()

    asyncio.run(run())
    _, result, heads = stream(writes(response(b'{"error": "stream_options and no end"}', 400)))
    assert isinstance(result, BackendRefused) and len(heads) == 2


@pytest.mark.parametrize("cancel", [False, True])
def test_closing_or_cancelling_ends_the_servers_work(cancel: bool) -> None:
    async def run() -> None:
        gone = asyncio.Event()

        async def endless(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
            writer.write(HEAD)
            try:
                while True:
                    writer.write(sse(chunk("x")))
                    await writer.drain()
                    await asyncio.sleep(0.01)
            except ConnectionError:
                gone.set()

        async with toxic_server(endless) as (base, _):
            client = LLMClient(Backend("vllm", base, "m"))
            if cancel:
                task = asyncio.create_task(collect(client, 30))
                await asyncio.sleep(0.1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                assert task.cancelled()
            else:
                async with aclosing(client.stream(MESSAGES, 8)) as pieces:
                    assert await anext(pieces) == "x"
            await asyncio.wait_for(gone.wait(), 5)
            assert client.unfinished == 0
            await client.aclose()

    asyncio.run(run())
