"""The bench's own arithmetic, on rankings whose values can be told by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.bench.retrieval.scores import auc, ndcg, paired, recall, reciprocal_rank


def test_ndcg() -> None:
    gains = {"a": 1.0, "b": 0.5}
    assert ndcg(["a", "b", "c"], gains) == pytest.approx(1.0)
    assert ndcg(["c", "a", "b"], gains) == pytest.approx((1 / math.log2(3) + 0.5 / 2) / (1 + 0.5 / math.log2(3)))
    assert ndcg(["c", "d"], gains) == 0.0
    assert ndcg(["c"] * 10 + ["a"], {"a": 1.0}) == 0.0  # the eleventh does not count


def test_recall_and_reciprocal_rank() -> None:
    assert recall(["a", "b"], {"a", "z"}) == 0.5 and recall(["x"] * 10 + ["a"], {"a"}) == 0.0
    assert reciprocal_rank(["x", "a"], {"a"}) == 0.5 and reciprocal_rank(["x"], {"a"}) == 0.0


def test_intervals_tell_a_difference_from_none() -> None:
    draws = np.random.default_rng(1)
    worse = draws.random(200)
    clear = paired(worse + 0.1 + draws.normal(0, 0.05, 200), worse, 2000)
    assert clear.low > 0.08 and clear.high < 0.12 and clear.low < clear.mean < clear.high
    none = paired(worse, worse[::-1].copy(), 2000)
    assert none.low < 0 < none.high
    assert paired(worse, worse, 100) == paired(worse, worse, 100)  # seeded


def test_auc() -> None:
    assert auc([3, 4], [1, 2]) == 1.0 and auc([1, 2], [3, 4]) == 0.0 and auc([1], [1]) == 0.5
