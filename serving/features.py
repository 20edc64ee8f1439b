"""The numbers by which candidates are ranked, one row a candidate. Pure numpy.

Each feature is on a scale of its own catalogue and encoder (a z-score within the pool, a share of the best, a
share of what is possible), so that weights fitted on one catalogue mean the same on another.
Invariant: a row depends on the question, the tool and the pool alone; all values are finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lake.schemas.rows import Tool
from serving.names import find_names

FEATURES_VERSION = "features-1"
FEATURE_NAMES = (
    "dense_own",  # cosine with the description in the question's language, z-score in the pool
    "dense_other",  # the same with the description in the other language
    "dense_names",  # the same with the passage of name, aliases and tags
    "dense_best",  # the best of the three, as distance below the pool's best, in pool deviations
    "dense_category",  # cosine with the mean vector of the tool's category, z-score in the pool
    "words_share",  # BM25 over words, as a share of what the question could reach
    "words_rank",  # the same, as a share of the pool's best
    "grams_share",  # BM25 over character n-grams, likewise
    "grams_rank",
    "named",  # the question names the tool or an alias, and wants it
    "excluded",  # the question names the tool to get away from it
    "tags",  # tags whose every word is asked for, saturating at 3
    "category",  # a word of the category is asked for
    "lang",  # the tool has a description in the question's language
)  # fmt: skip


@dataclass(frozen=True)
class PoolScores:
    """Raw scores of a pool of n candidates, each float [n]; cosines are NaN where there is no such passage."""

    dense_own: NDArray[np.float64]
    dense_other: NDArray[np.float64]
    dense_names: NDArray[np.float64]
    dense_category: NDArray[np.float64]
    words: NDArray[np.float64]
    grams: NDArray[np.float64]
    words_ideal: float
    grams_ideal: float

    @property
    def dense(self) -> NDArray[np.float64]:
        """The best cosine of each candidate."""
        stacked = np.vstack([self.dense_own, self.dense_other, self.dense_names])
        return np.nan_to_num(stacked, nan=-1.0).max(axis=0)

    @property
    def lexical(self) -> NDArray[np.float64]:
        """Mean share of the possible BM25 of words and n-grams, 0..1."""
        return np.clip((self.words / self.words_ideal + self.grams / self.grams_ideal) / 2, 0.0, 1.0)


def _z(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Z-scores within the pool; what is missing counts as the pool's lowest."""
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return np.zeros_like(values)
    filled = np.where(np.isfinite(values), values, known.min())
    deviation = float(filled.std())
    return (filled - filled.mean()) / deviation if deviation > 1e-9 else np.zeros_like(values)


def _share_of_best(values: NDArray[np.float64]) -> NDArray[np.float64]:
    best = float(values.max(initial=0.0))
    return values / best if best > 0 else np.zeros_like(values)


def feature_matrix(
    question: str, terms: frozenset[str], lang: str, tools: Sequence[Tool],
    tag_terms: Sequence[Sequence[frozenset[str]]], category_terms: Sequence[frozenset[str]], pool: PoolScores,
) -> NDArray[np.float64]:  # fmt: skip
    """float64 [len(tools), len(FEATURE_NAMES)]. `terms` are the question's words, `tag_terms` each tag's."""
    best = pool.dense
    spread = float(best.std()) or 1.0
    rows = np.zeros((len(tools), len(FEATURE_NAMES)))
    rows[:, 0] = _z(pool.dense_own)
    rows[:, 1] = _z(pool.dense_other)
    rows[:, 2] = _z(pool.dense_names)
    rows[:, 3] = (best - best.max(initial=-1.0)) / spread
    rows[:, 4] = _z(pool.dense_category)
    rows[:, 5] = pool.words / pool.words_ideal
    rows[:, 6] = _share_of_best(pool.words)
    rows[:, 7] = pool.grams / pool.grams_ideal
    rows[:, 8] = _share_of_best(pool.grams)
    for number, tool in enumerate(tools):
        named, excluded = find_names(question, (tool.name, *tool.aliases))
        rows[number, 9] = float(named and not excluded)
        rows[number, 10] = float(excluded)
        hits = sum(1 for tag in tag_terms[number] if tag and tag <= terms)
        rows[number, 11] = min(hits, 3) / 3
        rows[number, 12] = float(bool(category_terms[number] & terms))
        rows[number, 13] = float(bool(tool.description_ko if lang == "ko" else tool.description_en))
    return rows
