"""Ranking metrics of one question, and paired bootstrap intervals over questions. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
SEED = 20_261_125
ALSO_GAIN = 0.5  # of a tool that would be right too, beside 1.0 for the named one


@dataclass(frozen=True)
class Interval:
    """A mean difference with its 95 % percentile interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} … {self.high:+.3f})"


def ndcg(ranked: Sequence[str], gains: Mapping[str, float], k: int = 10) -> float:
    """Järvelin and Kekäläinen 2002, with the gain itself in the numerator; 0..1."""
    found = sum(gains.get(one, 0.0) / math.log2(place + 2) for place, one in enumerate(ranked[:k]))
    ideal = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(gains.values(), reverse=True)[:k]))
    return found / ideal


def recall(ranked: Sequence[str], right: set[str], k: int = 10) -> float:
    """Share of the right ones among the first `k`."""
    return len(right & set(ranked[:k])) / len(right)


def reciprocal_rank(ranked: Sequence[str], right: set[str]) -> float:
    """1 / place of the first right one; 0 where there is none."""
    return next((1 / place for place, one in enumerate(ranked, start=1) if one in right), 0.0)


def paired(better: NDArray[np.float64], worse: NDArray[np.float64], resamples: int = RESAMPLES) -> Interval:
    """Mean of `better - worse` over the same questions, float64 [n], resampled by question (Efron 1979)."""
    difference = better - worse
    draws = np.random.default_rng(SEED).integers(0, len(difference), (resamples, len(difference)))
    low, high = np.percentile(difference[draws].mean(axis=1), [2.5, 97.5])
    return Interval(float(difference.mean()), float(low), float(high))


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """Chance that a positive's score is above a negative's (Mann and Whitney 1947); ties count half."""
    high, low = np.asarray(positive)[:, None], np.asarray(negative)[None, :]
    return float((high > low).mean() + (high == low).mean() / 2)
