"""Paid asks: a budget that is never passed, faults that are tried again and counted, nothing asked twice."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from flows.steps.asking import GIVE_UP_AFTER, Asker, LlmAsk, Reply
from flows.steps.budget import Budget, Prices, most_tokens
from lake.answer_cache import AnswerCache, PaidAnswer, forget
from lake.errors import BackendError, BackendRefused, SetupError
from serving.backends import Backend
from serving.client import LLMClient
from serving.retry import RetryBudget
from tests.flows.scripted_llm import Body, Said, Scripted, completion, failure, scripted_llm

SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}}


def asks(count: int, **more: object) -> list[LlmAsk]:
    return [LlmAsk(f"s{n}", [{"role": "user", "content": f"질문 {n}"}], 50, **more) for n in range(count)]  # type: ignore[arg-type]


def run(
    root: Path, server: Scripted, wanted: Sequence[LlmAsk], *, budget: Budget | None = None, run_id: str = "r1",
    deadline_s: float = 5.0, attempts: int = 5, concurrency: int = 4, free_retries: bool = True,
) -> tuple[list[Reply], Asker]:  # fmt: skip
    """All replies, with the cache closed again."""
    with AnswerCache(root / "answers.sqlite") as cache:

        async def go() -> tuple[list[Reply], Asker]:
            client = LLMClient(Backend("openai", server.base, "m"), max_attempts=1)
            used = budget or Budget(Prices(1.0, 2.0), spent=cache.spent(run_id))
            asker = Asker(
                client, "m", cache, used, run_id, concurrency, deadline_s, attempts, pause_s=0.01
            )  # fmt: skip
            if free_retries:
                asker._retries = _Unbounded()  # pyright: ignore[reportPrivateUsage]
            try:
                return [reply async for reply in asker.ask_all(wanted)], asker
            finally:
                await client.aclose()

        return asyncio.run(go())


class _Unbounded(RetryBudget):
    def take(self) -> bool:
        return True


def test_answers_are_kept_before_they_are_used_and_never_asked_twice(tmp_path: Path) -> None:
    with scripted_llm(lambda body: completion(body["messages"][0]["content"])) as server:
        replies, asker = run(tmp_path, server, asks(10), concurrency=3)
        assert {reply.answer.text for reply in replies if reply.answer} == {f"질문 {n}" for n in range(10)}
        assert (len(server.asked), asker.counts["asked"], server.most_at_once <= 3) == (10, 10, True)
        assert asker.budget.spent.tokens == 1200
        assert asker.budget.cost == pytest.approx(10 * (100 + 2 * 20) / 1e6)
        again, asker = run(tmp_path, server, asks(12))
        assert len(server.asked) == 12  # the two new ones
        assert sum(reply.cached for reply in again) == 10
        assert asker.budget.tokens == 12 * 120  # the run knows what it paid before it was started again
        _, asker = run(tmp_path, server, asks(12), run_id="r2")
        assert len(server.asked) == 12 and asker.budget.tokens == 0
        changed, _ = run(tmp_path, server, [LlmAsk("s0", asks(1)[0].messages, 51)])
        assert not changed[0].cached


def test_a_kill_in_the_middle_costs_nothing_that_had_come(tmp_path: Path) -> None:
    stopped = threading.Event()

    def script(body: Body) -> Said:
        if body["messages"][0]["content"] == "질문 4" and not stopped.is_set():
            return Said(hang=stopped)
        return completion("x")

    with scripted_llm(script) as server, AnswerCache(tmp_path / "answers.sqlite") as cache:

        async def killed() -> int:
            client = LLMClient(Backend("openai", server.base, "m"), max_attempts=1)
            asker = Asker(client, "m", cache, Budget(Prices()), "r1", concurrency=1)
            came = 0
            try:
                async with asyncio.timeout(1.0):
                    async for _ in asker.ask_all(asks(8)):
                        came += 1
            except TimeoutError:
                pass
            finally:
                await client.aclose()
            return came

        assert asyncio.run(killed()) == 4
        stopped.set()
    with scripted_llm(script) as server:
        replies, _ = run(tmp_path, server, asks(8))
        assert sorted(reply.cached for reply in replies) == [False] * 4 + [True] * 4
        assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (lambda: failure(429, retry_after="0"), "llm_overloaded"),
        (lambda: failure(500), "llm_unavailable"),
        (lambda: Said(body=b'{"choices": [{"message": {"conte'), "llm_bad_answer"),
        (lambda: Said(body=b"x" * (3 << 20)), "llm_bad_answer"),
        (lambda: Said(hang=threading.Event()), "llm_timeout"),
        (lambda: failure(400, "context length exceeded"), "llm_refused"),
    ],
    ids=["429", "500", "half-json", "huge", "hang", "400"],
)
def test_each_fault_is_tried_again_then_counted(tmp_path: Path, said: Callable[[], Said], code: str) -> None:
    numbers = itertools.count()
    events: list[threading.Event] = []

    def bad() -> Said:
        one = said()
        if one.hang is not None:
            events.append(one.hang)
        return one

    try:
        with scripted_llm(lambda _: bad() if next(numbers) < 2 else completion("x")) as server:
            replies, asker = run(tmp_path / "a", server, asks(1), deadline_s=0.5, concurrency=1)
            if code == "llm_refused":  # an answer for good: not tried again
                assert (replies[0].failure, len(server.asked)) == (code, 1)
            else:
                assert replies[0].answer is not None and len(server.asked) == 3
                assert asker.counts["retries"] == 2
                maybe_charged = code in ("llm_bad_answer", "llm_timeout")
                assert (asker.budget.spent.failed_tokens > 0) == maybe_charged
        with scripted_llm(lambda _: bad()) as server:
            replies, asker = run(tmp_path / "b", server, asks(1), deadline_s=0.5, attempts=2)
            assert (replies[0].failure, asker.counts[code]) == (code, 1)
            assert replies[0].message
    finally:
        for event in events:
            event.set()


def test_a_wrong_key_or_a_dead_server_ends_the_run(tmp_path: Path) -> None:
    with scripted_llm(lambda _: failure(401)) as server:
        with pytest.raises(BackendRefused):
            run(tmp_path, server, asks(50), concurrency=2)
        assert len(server.asked) <= 4
    with scripted_llm(lambda _: failure(500)) as server:
        with pytest.raises(BackendError, match="500"):
            run(tmp_path, server, asks(200), attempts=1, concurrency=1)
        assert len(server.asked) == GIVE_UP_AFTER


def test_retries_draw_on_the_token_bucket(tmp_path: Path) -> None:
    """Three are free; the fourth would have to wait for ten seconds."""
    with scripted_llm(lambda _: failure(500)) as server, AnswerCache(tmp_path / "answers.sqlite") as cache:

        async def go() -> int:
            client = LLMClient(Backend("openai", server.base, "m"), max_attempts=1)
            asker = Asker(client, "m", cache, Budget(Prices()), "r1", concurrency=1, attempts=50, pause_s=0.001)
            try:
                async with asyncio.timeout(1.5):
                    async for _ in asker.ask_all(asks(1)):
                        pass
            except TimeoutError:
                pass
            finally:
                await client.aclose()
            return asker.counts["retries"]

        assert asyncio.run(go()) == 4  # the fourth is counted while it waits
        assert len(server.asked) == 4


@pytest.mark.parametrize("limit", ["tokens", "cost"])
def test_the_budget_is_never_passed_and_used_to_the_end(tmp_path: Path, limit: str) -> None:
    prices = Prices(3.0, 15.0)
    most = most_tokens(asks(1)[0].messages)
    with scripted_llm(lambda _: completion("x", usage=(most, 50))) as server:
        one = most + 50
        budget = (
            Budget(prices, max_tokens=7 * one)
            if limit == "tokens"
            else Budget(prices, max_cost=7 * prices.cost(most, 50))
        )
        replies, asker = run(tmp_path, server, asks(20), budget=budget)
        assert len(server.asked) == 7
        assert [reply.failure for reply in replies if reply.answer is None] == ["budget"] * 13
        assert asker.budget.tokens == 7 * one
        assert asker.budget.cost == pytest.approx(7 * prices.cost(most, 50))


def test_calls_that_turn_out_cheaper_leave_room_for_others(tmp_path: Path) -> None:
    most = most_tokens(asks(1)[0].messages) + 50
    with scripted_llm(lambda _: completion("x", usage=(5, 5))) as server:
        replies, asker = run(tmp_path, server, asks(20), budget=Budget(Prices(), max_tokens=2 * most))
    assert sum(reply.answer is not None for reply in replies) == min(20, 1 + (2 * most - most) // 10)
    assert asker.budget.tokens <= 2 * most


def test_a_server_without_usage_is_charged_at_the_most(tmp_path: Path) -> None:
    with scripted_llm(lambda _: completion("x", usage=None)) as server:
        replies, asker = run(tmp_path, server, asks(1))
    answer = replies[0].answer
    assert answer is not None and answer.estimated
    assert asker.budget.tokens == most_tokens(asks(1)[0].messages) + 50


def test_parameters_that_a_server_lacks_are_left_out(tmp_path: Path) -> None:
    def script(body: Body) -> Said:
        for name, words in (
            ("max_tokens", "Unsupported parameter: 'max_tokens', use max_completion_tokens"),
            ("temperature", "temperature does not support 0.5"),
            ("response_format", "invalid request"),  # says nothing of what it is
        ):
            if name in body:
                return failure(400, words)
        return completion(str(body["max_completion_tokens"]))

    with scripted_llm(script) as server:
        replies, asker = run(tmp_path, server, asks(3, schema=SCHEMA, temperature=0.5, seed=7), concurrency=1)
        assert [reply.answer.text for reply in replies if reply.answer] == ["50"] * 3
        assert asker.left_out == {"max_tokens", "temperature", "response_format"}
        assert len(server.asked) == 6 and server.asked[-1]["seed"] == 7
    sent = server.asked[0]["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}


def test_one_bad_request_does_not_cost_the_run_its_format(tmp_path: Path) -> None:
    """A refusal that names no parameter may be about the question: then the format stays."""
    with scripted_llm(
        lambda body: failure(400, "blocked") if "질문 0" in str(body["messages"]) else completion("x")
    ) as server:
        replies, asker = run(tmp_path, server, asks(3, schema=SCHEMA), concurrency=1)
    assert [reply.failure for reply in replies] == ["llm_refused", "", ""]
    assert asker.left_out == set() and "response_format" in server.asked[-1]


def test_forgotten_answers_leave_no_byte(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    paid = PaidAnswer("비밀 010-1234-5678 " * 50, "stop", 1, 1, False, 0.0, 1.0)
    with AnswerCache(path) as cache:
        cache.put("k1", "req-1", "r", "m", paid)
        cache.put("k2", "req-2", "r", "m", PaidAnswer("다른 것", "stop", 1, 1, False, 0.0, 1.0))
        assert cache.get("k1", "req-3") == paid  # the same prompt was asked for another request too
        with pytest.raises(SetupError, match="Another run"):
            AnswerCache(path)
    assert forget(path, ["req-3", "req-9"]) == 1
    assert "비밀".encode() not in path.read_bytes() and b"req-1" not in path.read_bytes()
    with AnswerCache(path) as cache:
        assert cache.get("k1") is None and cache.get("k2") is not None
    assert forget(tmp_path / "none.sqlite", ["x"]) == 0
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(SetupError, match="move the file"):
        AnswerCache(path)
