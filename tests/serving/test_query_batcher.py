"""Batches form while the encoder works, and each caller gets its own vector, or its own batch's error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from lake.errors import SetupError
from serving.encoders import Vectors, load_encoder
from serving.query_batcher import QUEUE_MAX, QueryBatcher


class Slow:
    """An encoder that waits for `gate` in its first call; a text's vector is its length."""

    name, revision, dim = "slow", "1", 1

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.calls: list[list[str]] = []

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        self.entered.set()
        assert self.gate.wait(10)
        if "bad" in texts:
            raise ValueError("planted")
        return np.array([[len(text)] for text in texts], dtype=np.float32)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        raise AssertionError("questions only")


async def first_call(encoder: Slow, batcher: QueryBatcher, text: str) -> asyncio.Task[Vectors]:
    """A question that the encoder is busy with."""
    task = asyncio.create_task(batcher.embed(text))
    await asyncio.to_thread(encoder.entered.wait, 10)
    return task


def test_what_gathers_while_the_encoder_works_goes_together() -> None:
    async def work() -> None:
        encoder = Slow()
        batcher = QueryBatcher(encoder, max_batch=4)
        tasks = [await first_call(encoder, batcher, "a")]
        tasks += [asyncio.create_task(batcher.embed("b" * n)) for n in (2, 3, 3, 4, 5, 6)]
        await asyncio.sleep(0)
        encoder.gate.set()
        assert [int(vector[0]) for vector in await asyncio.gather(*tasks)] == [1, 2, 3, 3, 4, 5, 6]
        assert encoder.calls == [["a"], ["bb", "bbb", "bbbb"], ["bbbbb", "bbbbbb"]]
        assert (batcher.batches, batcher.texts) == (3, 6)
        batcher.close()

    asyncio.run(work())


def test_an_error_reaches_its_batch_and_a_cancelled_caller_costs_nobody_anything() -> None:
    async def work() -> None:
        encoder = Slow()
        batcher = QueryBatcher(encoder, max_batch=2)
        first = await first_call(encoder, batcher, "a")
        gone, bad, beside, later = (asyncio.create_task(batcher.embed(text)) for text in ("gone", "bad", "cc", "dddd"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        encoder.gate.set()
        assert int((await first)[0]) == 1
        for task in (bad, beside):
            with pytest.raises(ValueError, match="planted"):
                await task
        assert int((await later)[0]) == 4
        assert encoder.calls == [["a"], ["bad", "cc"], ["dddd"]]
        batcher.close()

    asyncio.run(work())


def test_closing_answers_what_waits_and_refuses_the_rest() -> None:
    async def work() -> None:
        encoder = Slow()
        batcher = QueryBatcher(encoder)
        tasks = [await first_call(encoder, batcher, "a"), asyncio.create_task(batcher.embed("bb"))]
        await asyncio.sleep(0)
        batcher.close()
        batcher.close()
        with pytest.raises(SetupError, match="closed"):
            await batcher.embed("ccc")
        encoder.gate.set()
        assert [int(vector[0]) for vector in await asyncio.gather(*tasks)] == [1, 2]

    asyncio.run(work())


def test_the_queue_is_bounded() -> None:
    async def work() -> None:
        encoder = Slow()
        batcher = QueryBatcher(encoder)
        tasks = [await first_call(encoder, batcher, "a")]
        tasks += [asyncio.create_task(batcher.embed("b")) for _ in range(QUEUE_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(SetupError, match="send less"):
            await batcher.embed("c")
        encoder.gate.set()
        await asyncio.gather(*tasks)
        batcher.close()

    asyncio.run(work())


def test_a_failing_listener_fails_its_batch_and_the_thread_goes_on() -> None:
    async def work() -> None:
        encoder = Slow()
        encoder.gate.set()
        batcher = QueryBatcher(encoder)

        def refuse(size: int) -> None:
            raise RuntimeError(f"planted {size}")

        batcher.on_batch = refuse
        with pytest.raises(RuntimeError, match="planted 1"):
            await asyncio.wait_for(batcher.embed("a"), 10)  # without the thread it would never come
        batcher.on_batch = lambda _: None
        assert int((await asyncio.wait_for(batcher.embed("bb"), 10))[0]) == 2
        batcher.close()

    asyncio.run(work())


def test_vectors_in_a_batch_equal_those_one_by_one() -> None:
    questions = [
        "화상 회의 도구",
        "open source vector editor",
        "번역",
        "여러 명이 같이 문서를 고치는 툴 추천해 주세요",
    ] * 3
    encoder = load_encoder()

    async def work() -> list[Vectors]:
        batcher = QueryBatcher(encoder)
        vectors = await asyncio.gather(*(batcher.embed(question) for question in questions))
        batcher.close()
        return list(vectors)

    for question, vector in zip(questions, asyncio.run(work()), strict=True):
        assert np.allclose(vector, encoder.encode_queries([question])[0], atol=1e-5)
