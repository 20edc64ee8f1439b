"""Which side of the train / hold-out split a question lies on: decided once, for its whole cluster, for life. Pure.

Reads and returns a `SplitBook`, the decisions of earlier builds (`lake/split_store.py` keeps it). A question that is
in the book keeps its side. New ones hang together in clusters; a cluster takes the side of the decided questions
that it touches; where it touches none, a seeded hash of its smallest member decides. Where it touches both, sides
spread from the decided questions through it, and what is near both is dropped (`bridges_split`), as is what is near
a test question (`near_test`). At the end every pair of opposite sides with a new question in it is looked at once
more, so what clustering may have missed is dropped, not leaked. Synthetic rows join clusters, but none is held out
(`synthetic_holdout`) and a cluster of nothing else is trained on.

Only new questions are compared: with each other and with the book. Same questions and book, same result, in any
order. The work itself is in `lake/rules/sides.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lake.rules.book import EMPTY, NEAR_TEST, REASONS, SYNTHETIC, Codes, Flags, SplitBook, cluster_name
from lake.rules.keys import Keys, find, from_hex, keys_of, to_bytes
from lake.rules.near import EXACT_CELLS
from lake.rules.shingles import U64, normalise_questions
from lake.rules.sides import Sides, draw

__all__ = ["Assignment", "Side", "SplitBook", "assign", "draw"]

Side = Literal["train", "holdout"]


@dataclass(frozen=True, eq=False)
class Assignment:
    """Row by row what became of the questions, and the grown book. `reason[i]` (place in REASONS) is 0 where row i
    may enter; then `holdout[i]` is its side and `clusters[i]` its cluster.
    """

    keys: Keys
    reason: Codes
    holdout: Flags
    clusters: U64
    book: SplitBook
    new: int  # distinct questions that the book did not have
    method: str  # exact | minhash-lsh+verify
    proposed: int  # pairs that LSH proposed
    deepened: int  # pairs of large buckets of which only the likelier were

    def rejected(self, row: int) -> str:
        """Why this row may not enter; empty where it may."""
        return REASONS[self.reason[row]]

    def side(self, row: int) -> Side:
        return "holdout" if self.holdout[row] else "train"

    def cluster_id(self, row: int) -> str:
        return cluster_name(self.clusters[row])


def tests_digest(keys: Keys) -> str:
    """One name for a set of test questions."""
    return hashlib.sha256(to_bytes(np.unique(keys))).hexdigest()[:16]


def assign(
    questions: Sequence[str],
    test_questions: Sequence[str],
    book: SplitBook,
    seed: int,
    holdout_share: float,
    threshold: float,
    synthetic: Sequence[bool] | None = None,
    keys: Sequence[str] | None = None,
    exact_cells: int = EXACT_CELLS,
) -> Assignment:
    """Decide every question (any order, repeats allowed); `synthetic` marks the rows that no person asked, `keys` are
    their `question_key`s where they are known: then the texts of decided questions are not even looked at.

    A text whose Jaccard similarity to another is `threshold` or more is near it; `holdout_share` is the share of
    the clusters. Memory is some 1.5 KB a distinct question that is new or compared.
    """
    row_keys = keys_of(normalise_questions(questions)) if keys is None else from_hex(keys)
    distinct, first, inverse = np.unique(row_keys, return_index=True, return_inverse=True)
    real = np.ones(len(row_keys), dtype=np.bool_) if synthetic is None else ~np.asarray(synthetic, dtype=np.bool_)
    asked = np.bincount(inverse, weights=real, minlength=len(distinct)) > 0
    tests = sorted(set(normalise_questions(test_questions)) - {""})
    test_keys = keys_of(tests)

    reason = np.zeros(len(distinct), dtype=np.uint8)
    reason[np.isin(distinct, test_keys)] = NEAR_TEST
    reason[np.isin(distinct, keys_of([""]))] = EMPTY
    at, known = find(book.keys, distinct)
    fresh = np.flatnonzero(~known & (reason == 0))  # in the order of the keys, so of no other

    texts = normalise_questions([str(questions[row]) for row in first[fresh].tolist()])
    work = Sides(book, texts, tests, threshold, exact_cells)
    blocked = work.blocked(tests_digest(test_keys))
    open_ = known & (reason == 0)
    reason[open_] = blocked[at[open_]]
    decided = work.decide(distinct[fresh], asked[fresh], seed, holdout_share)
    reason[fresh] = decided.reason

    holdout = np.zeros(len(distinct), dtype=np.bool_)
    holdout[known] = book.holdout[at[known]]
    holdout[fresh] = decided.holdout
    reason[holdout & ~asked & (reason == 0)] = SYNTHETIC
    clusters = np.zeros(len(distinct), dtype=np.uint64)
    clusters[known] = decided.book_clusters[at[known]]
    clusters[fresh] = decided.clusters

    enter = decided.reason == 0
    grown = book.grown(
        distinct[fresh][enter], decided.holdout[enter], decided.clusters[enter],
        work.new.take(np.flatnonzero(enter)), old_clusters=decided.book_clusters, blocked=blocked,
        threshold=threshold, tests=tests_digest(test_keys),
    )  # fmt: skip
    method = "exact" if work.is_exact else "minhash-lsh+verify"
    effort = work.effort
    return Assignment(
        row_keys, reason[inverse], holdout[inverse], clusters[inverse], grown, len(fresh), method,
        effort.proposed, effort.deepened,
    )  # fmt: skip
