"""Near-duplicate pairs of questions, and the most similar pair across two sides. Pure, whatever the order.

Small inputs exactly, large ones by MinHash-LSH with every pair verified: see `near.py`. No pair below the threshold
is ever reported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lake.rules.graph import components
from lake.rules.near import EXACT_CELLS, PROOF_CELLS, NearIndex
from lake.rules.shingles import I64, Shingles, concatenate

__all__ = ["CrossPair", "NearPairs", "best_cross", "components", "near_pairs"]


_LIKELY = 1_000  # pairs with the highest bound, counted first


@dataclass(frozen=True)
class NearPairs:
    """Pairs `left[k] < right[k]` (row numbers) with their exact Jaccard `similarity[k]`, sorted."""

    left: I64
    right: I64
    similarity: np.ndarray[Any, np.dtype[np.float64]]
    method: str  # exact | minhash-lsh+verify

    def __len__(self) -> int:
        return len(self.left)

    def tuples(self) -> list[tuple[int, int, float]]:
        return list(zip(self.left.tolist(), self.right.tolist(), self.similarity.tolist(), strict=True))


@dataclass(frozen=True)
class CrossPair:
    """The most similar pair across two sides; row numbers are those of each side."""

    similarity: float
    left: int | None
    right: int | None
    method: str


def _method(index: NearIndex) -> str:
    return "exact" if index.exact else "minhash-lsh+verify"


def near_pairs(shingles: Shingles, threshold: float, exact_cells: int = EXACT_CELLS) -> NearPairs:
    """All pairs of rows with Jaccard similarity >= `threshold` (0 < threshold <= 1)."""
    index = NearIndex(shingles, threshold, exact_cells)
    rows = np.arange(len(shingles))
    left, right, similarity = index.pairs(rows)
    return NearPairs(left, right, similarity, _method(index))


def best_cross(left: Shingles, right: Shingles, threshold: float, exact_cells: int = PROOF_CELLS) -> CrossPair:
    """The most similar pair with one row of each side; of equally similar ones the first.

    Where not every pair is compared, a pair at `threshold` is missed with the probability that
    `near.thorough(threshold)` states, and below it more often.
    """
    index = NearIndex(concatenate([left, right]), threshold, exact_cells)
    best = CrossPair(0.0, None, None, "")
    for a, b in index.cross(np.arange(len(left)), len(left) + np.arange(len(right))):
        bound = index.overlaps.bound(a, b)
        likely = np.argpartition(bound, -_LIKELY)[-_LIKELY:] if len(bound) > _LIKELY else np.arange(len(bound))
        floor = max(best.similarity, float(index.overlaps.exact(a[likely], b[likely]).max(initial=0.0)), 1e-9)
        keep = bound >= floor
        a, b = a[keep], b[keep]
        similarity = index.overlaps.exact(a, b)
        if not len(similarity) or similarity.max() < best.similarity or not similarity.max():
            continue
        top = np.flatnonzero(similarity == similarity.max())
        first = top[np.lexsort((b[top], a[top]))[0]]
        found = CrossPair(float(similarity[first]), int(a[first]), int(b[first]) - len(left), "")
        if found.similarity > best.similarity or (found.left, found.right) < (best.left, best.right):  # type: ignore[operator]
            best = found
    return replace(best, method=_method(index))
