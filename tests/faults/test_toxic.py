"""The LLM client against every toxic, plain and streamed: the right error in time, nothing is left, the next works."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest

from lake.errors import BackendError
from serving.answers import ChatAnswer
from serving.backends import Backend
from serving.client import LLMClient
from serving.retry import RetryBudget
from tests.faults.toxic import ANSWER, TOXICS, ToxicServer, run_toxic

MESSAGES = [{"role": "user", "content": "질문"}]
DEADLINE_S = 1.0


@pytest.fixture(scope="module")
def server() -> Iterator[ToxicServer]:
    with run_toxic() as running:
        yield running


async def ask(client: LLMClient, streamed: bool, deadline_s: float = DEADLINE_S) -> tuple[list[str], ChatAnswer]:
    if not streamed:
        return [], await client.chat(MESSAGES, 8, deadline_s=deadline_s)
    pieces: list[str] = []
    answers: list[ChatAnswer] = []
    async for piece in client.stream(MESSAGES, 8, deadline_s=deadline_s):
        pieces.append(piece) if isinstance(piece, str) else answers.append(piece)
    assert len(answers) == 1
    return pieces, answers[0]


async def gone(server: ToxicServer) -> None:
    async with asyncio.timeout(5):
        while server.connections:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("streamed", [False, True], ids=["chat", "stream"])
@pytest.mark.parametrize("name", TOXICS)
def test_each_toxic(server: ToxicServer, name: str, streamed: bool) -> None:
    toxic = TOXICS[name]

    async def run() -> None:
        client = LLMClient(Backend("vllm", server.base, "toxic"))
        before = asyncio.all_tasks()
        server.behave("good")
        await ask(client, streamed, 10)  # a connection is open already when the fault comes
        server.behave(name)
        for _ in range(2):
            async with asyncio.timeout(DEADLINE_S + 1):
                with pytest.raises(BackendError) as caught:
                    await ask(client, streamed)
            assert type(caught.value) is (toxic.stream if streamed else toxic.chat), caught.value
            assert "\n" not in str(caught.value)
            if streamed and toxic.begins:
                assert caught.value.detail["partial"] == ANSWER[0]
            assert client.unfinished == 0 and asyncio.all_tasks() == before
        server.behave("good")
        pieces, answer = await ask(client, streamed, 10)
        assert answer == ChatAnswer("".join(ANSWER), "stop", 5, 3, "toxic")
        assert pieces == (list(ANSWER) if streamed else [])
        await client.aclose()
        await gone(server)
        assert server.trapped == 0

    asyncio.run(run())


def test_many_at_once_through_changing_faults(server: ToxicServer) -> None:
    """200 calls, every fourth given up by its caller, while the server goes through all faults; then it works again."""

    async def run() -> None:
        budget = RetryBudget()
        client = LLMClient(Backend("vllm", server.base, "toxic"), budget=budget, max_connections=16)
        before = asyncio.all_tasks()
        calls: list[asyncio.Task[object]] = []
        names = [name for name in TOXICS if name != "huge"]  # 100 MB each: has its own test
        for number in range(200):
            server.behave(names[number % len(names)])
            call = asyncio.create_task(ask(client, number % 2 == 0, 0.5))
            calls.append(call)
            await asyncio.sleep(0.005)
            if number % 4 == 0:
                call.cancel()
        async with asyncio.timeout(30):
            ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [end for end in ends if not isinstance(end, (BackendError, tuple, asyncio.CancelledError))] == []
        assert any(isinstance(end, asyncio.CancelledError) for end in ends)
        assert client.unfinished == 0 and asyncio.all_tasks() == before
        server.behave("good")
        for streamed in (False, True):
            assert (await ask(client, streamed, 10))[1].text == "".join(ANSWER)
        await client.aclose()
        await gone(server)

    asyncio.run(run())


def test_callers_that_leave_at_any_moment_wedge_nothing(server: ToxicServer) -> None:
    """2,000 calls cut off after 0 to 5 ms, at any point of connecting, sending and reading; then 100 are answered."""

    async def run() -> None:
        client = LLMClient(Backend("vllm", server.base, "toxic"), max_connections=32)
        before = asyncio.all_tasks()
        server.behave("good")
        left = 0

        async def user(seed: int) -> None:
            nonlocal left
            chance = random.Random(seed)
            for number in range(125):
                try:
                    async with asyncio.timeout(chance.random() * 0.005):
                        await ask(client, number % 2 == 0, 5)
                except TimeoutError:
                    left += 1

        await asyncio.gather(*(user(seed) for seed in range(16)))
        assert left > 200 and client.unfinished == 0 and asyncio.all_tasks() == before
        for number in range(100):
            assert (await ask(client, number % 2 == 0, 10))[1].text == "".join(ANSWER)
        await client.aclose()
        await gone(server)

    asyncio.run(run())


def test_faults_that_pass_are_hidden_by_a_retry(server: ToxicServer) -> None:
    async def run() -> None:
        for name in ("reset", "close", "fails_503"):
            client = LLMClient(Backend("vllm", server.base, "toxic"))
            for streamed in (False, True):
                server.behave(name, times=1)
                assert (await ask(client, streamed, 10))[1].text == "".join(ANSWER)
            assert client.retries == 2
            await client.aclose()

    asyncio.run(run())
