"""The LLM client, the switch's probe and the champion against the real llama.cpp server on the real base."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from lake.errors import BackendRefused, SetupError
from serving import processes
from serving.answers import ChatAnswer
from serving.backends import Backend, detect_profile
from serving.base_models import BaseModel
from serving.client import LLMClient
from serving.llamacpp_server import argument_vector
from serving.switch import probe_backend

KEY, ADAPTER = "llama-key", "0123456789abcdef"
QUESTION = [
    {
        "role": "user",
        "content": "질문: 협업 도구 추천해줘\n\n관련 정보:\n1. Notion - 팀 문서. https://notion.so\n\n답변: ",
    }
]


@pytest.fixture(scope="module")
def backend(real_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """A server whose one model has an adapter's id for its name, as an exported GGUF has."""
    run_dir = tmp_path_factory.mktemp("run")
    port = processes.free_port()
    argv = argument_vector(Path(sys.executable), real_base.gguf_path, ADAPTER, port, 512, 2, 2, "MY_LLAMA_KEY")
    env = {**os.environ, "MY_LLAMA_KEY": KEY}
    processes.start("llamacpp", argv, env, run_dir, run_dir / "log", f"http://127.0.0.1:{port}/health", 90)
    try:
        yield Backend("llamacpp", f"http://127.0.0.1:{port}/v1", ADAPTER, KEY)
    finally:
        processes.stop("llamacpp", run_dir)


def test_a_stream_is_the_plain_answer_in_pieces(backend: Backend) -> None:
    async def run() -> None:
        client = LLMClient(backend)
        plain = await client.chat(QUESTION, 12)
        pieces: list[str] = []
        answers: list[ChatAnswer] = []
        async for piece in client.stream(QUESTION, 12):
            pieces.append(piece) if isinstance(piece, str) else answers.append(piece)
        assert answers == [plain] and "".join(pieces) == plain.text and len(pieces) > 3
        assert plain.completion_tokens == 12 and plain.finish_reason == "length"
        await client.aclose()

    asyncio.run(run())


def test_closing_a_stream_frees_the_server(backend: Backend) -> None:
    """Two slots: after twelve long answers that were given up, another is answered before they could have ended."""

    async def run() -> None:
        client = LLMClient(backend)
        for _ in range(12):
            async with aclosing(client.stream(QUESTION, 400)) as pieces:
                assert isinstance(await anext(pieces), str)
        assert client.unfinished == 0
        assert (await client.chat(QUESTION, 4, deadline_s=20)).completion_tokens == 4
        await client.aclose()

    asyncio.run(run())


@pytest.mark.parametrize("streamed", [False, True], ids=["chat", "stream"])
def test_its_refusals(backend: Backend, streamed: bool) -> None:
    async def run(asked: Backend, text: str, says: str) -> None:
        client = LLMClient(asked)
        with pytest.raises(BackendRefused, match=says):
            if streamed:
                async for _ in client.stream([{"role": "user", "content": text}], 4):
                    pass
            else:
                await client.chat([{"role": "user", "content": text}], 4)
        await client.aclose()

    asyncio.run(run(backend, "가나다 " * 600, "context"))
    asyncio.run(run(replace(backend, api_key="wrong"), "x", "refuses the key"))
    asyncio.run(run(replace(backend, api_key=""), "x", "asks for a key"))


def test_the_champion_is_its_identifier(backend: Backend) -> None:
    wanted = replace(backend, model="champion")
    found = asyncio.run(probe_backend(wanted, ADAPTER))
    assert found == replace(backend, adapter=ADAPTER, follows_champion=True)
    with pytest.raises(SetupError, match=r"does not have the champion fedcba9876543210 .*--alias fedcba9876543210"):
        asyncio.run(probe_backend(wanted, "fedcba9876543210"))
    with pytest.raises(SetupError, match="does not have the model another"):  # it would answer to any name
        asyncio.run(probe_backend(replace(backend, model="another"), ADAPTER))
    assert asyncio.run(detect_profile(backend.api_base, api_key=KEY)) == "llamacpp"
