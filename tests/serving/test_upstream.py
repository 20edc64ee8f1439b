"""The HTTP side of an LLM server: whatever its bytes and its name server say, a typed error and nothing left open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake.errors import BackendError
from serving.backends import Backend
from serving.client import LLMClient
from serving.retry import RetryBudget
from tests.serving.test_client import GOOD, MESSAGES, toxic_server


def test_a_name_that_leads_elsewhere_later_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name was checked when the backend was configured, and points to link-local now."""

    async def run() -> None:
        async def elsewhere(*_: object, **__: object) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", elsewhere)
        client = LLMClient(Backend("openai", "http://innocent.example/v1", "m"))
        with pytest.raises(BackendError, match=r"innocent.example is 169\.254\.169\.254 now: not permitted"):
            await client.chat(MESSAGES, 8, deadline_s=2)
        await client.aclose()

    asyncio.run(run())


_HTTP = st.sampled_from([
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/9 999\r\n", b"HTTP/1.1 204 No\r\n",
    b"content-length: 5\r\n", b"content-length: -1\r\n", b"content-length: 5, 6\r\n", b"transfer-encoding: chunked\r\n",
    b"content-type: text/event-stream\r\n", b"content-type: ;;\r\n", b"connection: close\r\n", b"\r\n", b"5\r\nab",
    b"zz\r\n", b"0\r\n\r\n", b"data: {}\n\n", b"data: [DONE]\n\n", b"x" * 9000, b": \r\n", b"set-cookie: a=b\r\n", GOOD,
])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(_HTTP | st.binary(max_size=20), max_size=8).map(b"".join), st.booleans())
def test_any_bytes_of_a_server_are_an_answer_or_a_typed_error(data: bytes, streamed: bool) -> None:
    async def behave(_: asyncio.StreamReader, writer: asyncio.StreamWriter, __: int) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    async def run() -> None:
        async with toxic_server(behave) as (base, _):
            client = LLMClient(Backend("openai", base, "m"), budget=NoRetries())
            with contextlib.suppress(BackendError):
                if streamed:
                    async for _piece in client.stream(MESSAGES, 8, deadline_s=2):
                        pass
                else:
                    await client.chat(MESSAGES, 8, deadline_s=2)
            assert client.unfinished == 0
            await client.aclose()

    asyncio.run(run())


class NoRetries(RetryBudget):
    def take(self) -> bool:
        return False
