"""The bench asks each question once and compares like with like."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np

from serving.encoders import Vectors
from serving.query_batcher import QueryBatcher
from tests.bench.embed.bench import CALLERS, EACH, K, _crowd, _dense, _vectors, passage_texts, questions


class Counting:
    name, revision, dim = "counting", "1", 2

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(list(texts))
        return np.ones((len(texts), 2), dtype=np.float32)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        raise AssertionError("questions only")


def test_every_question_is_asked_once_and_no_two_are_equal() -> None:
    texts = questions()[: CALLERS * EACH]
    assert len(set(texts)) == CALLERS * EACH and len(passage_texts()) >= 600
    encoder = Counting()

    async def work() -> None:
        batcher = QueryBatcher(encoder, max_batch=1)
        assert await _crowd(batcher, texts) > 0
        batcher.close()

    asyncio.run(work())
    assert sorted(call[0] for call in encoder.calls) == sorted(texts) and {len(call) for call in encoder.calls} == {1}


def test_drawn_vectors_are_of_length_one_and_the_same_again() -> None:
    passages = np.eye(8, dtype=np.float32)
    drawn = _vectors(passages, 50)
    assert drawn.shape == (50, 8) and np.allclose(np.linalg.norm(drawn, axis=1), 1, atol=1e-6)
    assert np.array_equal(drawn, _vectors(passages, 50)) and np.array_equal(_vectors(passages, 8), passages)


def test_both_arms_of_the_dense_stage_find_all_in_an_exact_index() -> None:
    draws = np.random.default_rng(3).normal(size=(K + 60, 16)).astype(np.float32)
    vectors = draws / np.linalg.norm(draws, axis=1, keepdims=True)
    what, mine, theirs, ratio, recall = _dense(vectors[:-10], vectors[-10:], 2)
    assert recall == 1.0 and "bare 1.000" in what and len(mine) == len(theirs) == len(ratio) == 2
