"""One request's use of the LLM: fallback within one deadline, breakers, and who answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest

from gateway.llm_call import LLMCall, Target
from lake.errors import BackendBadAnswer, BackendError, BackendRefused, BackendSuspended, BackendTimeout
from serving.answers import ChatAnswer
from serving.backends import Backend
from serving.breaker import CircuitBreaker
from serving.client import LLMClient
from serving.retry import RetryBudget
from tests.faults.toxic import ANSWER, TOXICS, ToxicServer, run_toxic

MESSAGES = [{"role": "user", "content": "질문"}]
WHOLE = "".join(ANSWER)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[ToxicServer, ToxicServer]]:
    with run_toxic() as first, run_toxic() as second:
        yield first, second


@pytest.fixture(autouse=True)
def both_good(servers: tuple[ToxicServer, ToxicServer]) -> None:
    for server in servers:
        server.behave("good")
        server.asked.clear()


class Made:
    """Targets of one or two servers; a new call for each request, as the holder makes them."""

    def __init__(self, servers: tuple[ToxicServer, ...], failures: int, open_s: float, share: float) -> None:
        self.budget = RetryBudget()
        self.unknown = 0
        self.share = share
        self.targets: list[Target] = []
        for number, server in enumerate(servers):
            backend = Backend("vllm", server.base, f"m{number}")
            client = LLMClient(backend, budget=self.budget)
            self.targets.append(Target(backend, client, CircuitBreaker(failures, open_s), bool(number)))

    def call(self) -> LLMCall:
        return LLMCall(self.targets, self.share, self._note)

    def _note(self) -> None:
        self.unknown += 1

    async def ask(self, streamed: bool, deadline_s: float = 10.0) -> tuple[LLMCall, list[str], ChatAnswer]:
        call = self.call()
        if not streamed:
            return call, [], await call.chat(MESSAGES, 8, deadline_s=deadline_s, headers={"traceparent": "00-x"})
        pieces: list[str] = []
        answers: list[ChatAnswer] = []
        async for piece in call.stream(MESSAGES, 8, deadline_s=deadline_s):
            pieces.append(piece) if isinstance(piece, str) else answers.append(piece)
        assert len(answers) == 1
        return call, pieces, answers[0]


@asynccontextmanager
async def made(
    *servers: ToxicServer, failures: int = 5, open_s: float = 60.0, share: float = 0.6
) -> AsyncIterator[Made]:
    it = Made(servers, failures, open_s, share)
    try:
        yield it
    finally:
        for target in it.targets:
            await target.client.aclose()


both = pytest.mark.parametrize("streamed", [False, True], ids=["chat", "stream"])


@both
def test_the_first_answers(servers: tuple[ToxicServer, ToxicServer], streamed: bool) -> None:
    async def run() -> None:
        async with made(*servers) as it:
            call, _, answer = await it.ask(streamed)
            assert answer.text == WHOLE and call.backend.model == "m0" and not call.is_fallback and call.retries == 0
            assert servers[1].asked == []

    asyncio.run(run())


@both
@pytest.mark.parametrize("name", [name for name in TOXICS if name != "huge"])
def test_the_fallback_answers_whatever_the_first_does(
    servers: tuple[ToxicServer, ToxicServer], name: str, streamed: bool
) -> None:
    """Unless a stream had begun: then it ends with the error."""
    servers[0].behave(name)

    async def run() -> None:
        async with made(*servers, share=0.25) as it, asyncio.timeout(5):
            if streamed and TOXICS[name].begins:
                call = it.call()
                with pytest.raises(TOXICS[name].stream) as caught:
                    async for piece in call.stream(MESSAGES, 8, deadline_s=1.5):
                        assert piece == ANSWER[0]
                assert caught.value.detail["partial"] == ANSWER[0] and not call.is_fallback
                return
            call, pieces, answer = await it.ask(streamed, 4.0)
            assert answer.text == WHOLE and call.is_fallback and call.backend.model == "m1"
            assert pieces == (list(ANSWER) if streamed else [])
            assert servers[1].asked[0]["model"] == "m1"

    asyncio.run(run())


@both
def test_both_fail(servers: tuple[ToxicServer, ToxicServer], streamed: bool) -> None:
    servers[0].behave("hang")
    servers[1].behave("half_json" if not streamed else "wrong_type")

    async def run() -> None:
        async with made(*servers) as it, asyncio.timeout(2):
            with pytest.raises(BackendBadAnswer) as caught:
                await it.ask(streamed, 1.0)
            assert str(caught.value.detail["primary"]).startswith("llm_timeout: ")

    asyncio.run(run())


@both
def test_both_hang_and_the_deadline_holds(servers: tuple[ToxicServer, ToxicServer], streamed: bool) -> None:
    for server in servers:
        server.behave("hang")

    async def run() -> None:
        async with made(*servers) as it, asyncio.timeout(2):
            with pytest.raises(BackendTimeout):
                await it.ask(streamed, 1.0)
            assert len(servers[1].asked) == 1

    asyncio.run(run())


@both
def test_an_open_circuit_is_not_asked(servers: tuple[ToxicServer, ToxicServer], streamed: bool) -> None:
    servers[0].behave("fails_500")

    async def run() -> None:
        async with made(*servers, failures=2) as it:
            for _ in range(4):
                call, _, answer = await it.ask(streamed)
                assert call.is_fallback and answer.text == WHOLE
            assert len(servers[0].asked) == 2 and it.targets[0].breaker.state == "open"
        async with made(servers[0], failures=2, open_s=0.2) as it:
            for _ in range(2):
                with pytest.raises(BackendError):
                    await it.ask(streamed)
            with pytest.raises(BackendSuspended):
                await it.ask(streamed)
            servers[0].behave("good")
            await asyncio.sleep(0.25)
            assert (await it.ask(streamed))[2].text == WHOLE and it.targets[0].breaker.state == "closed"

    asyncio.run(run())


def test_a_wrong_request_is_not_asked_twice(servers: tuple[ToxicServer, ToxicServer]) -> None:
    async def run() -> None:
        for status, asked in ((400, 0), (422, 0), (401, 1), (404, 1)):
            servers[1].asked.clear()
            async with made(*servers) as it:
                error = BackendRefused("no", status=status, **({"unknown_model": True} if status == 404 else {}))

                async def refuse(*_: object, error: BackendError = error, **__: object) -> ChatAnswer:
                    raise error

                it.targets[0].client.chat = refuse  # type: ignore[method-assign]
                if asked:
                    assert (await it.ask(False))[0].is_fallback
                else:
                    with pytest.raises(BackendRefused):
                        await it.ask(False)
                assert len(servers[1].asked) == asked and it.unknown == (status == 404)
                assert it.targets[0].breaker.failures == 0

    asyncio.run(run())


def test_the_retry_budget_is_one_for_both(servers: tuple[ToxicServer, ToxicServer]) -> None:
    """Retries stay below 0.2 x requests + 3 over both servers, although each request asks two of them."""
    for server in servers:
        server.behave("close")

    async def run() -> None:
        async with made(*servers, failures=10_000) as it:
            calls = [it.call() for _ in range(20)]
            for call in calls:
                with pytest.raises(BackendError):
                    await call.chat(MESSAGES, 8, deadline_s=5.0)
            retries = sum(call.retries for call in calls)
            assert retries == 0.2 * 20 + 3
            assert len(servers[0].asked) + len(servers[1].asked) == 2 * 20 + retries

    asyncio.run(run())


def test_a_caller_that_leaves_a_trial_hands_it_back(servers: tuple[ToxicServer, ToxicServer]) -> None:
    servers[0].behave("fails_500")

    async def run() -> None:
        async with made(servers[0], failures=1, open_s=0.05) as it:
            with pytest.raises(BackendError):
                await it.ask(False)
            servers[0].behave("hang")
            await asyncio.sleep(0.1)
            task = asyncio.create_task(it.ask(True))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            servers[0].behave("good")
            assert (await it.ask(True))[2].text == WHOLE

    asyncio.run(run())


def test_closing_a_stream_ends_the_call(servers: tuple[ToxicServer, ToxicServer]) -> None:
    servers[0].behave("hang_midway")

    async def run() -> None:
        async with made(*servers) as it, aclosing(it.call().stream(MESSAGES, 8)) as pieces:
            assert await anext(pieces) == ANSWER[0]
            await pieces.aclose()
            assert it.targets[0].client.unfinished == 0

    asyncio.run(run())
