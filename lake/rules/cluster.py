"""Near-duplicate pairs and clusters of questions. Pure, and independent of the order of its input.

Up to `EXACT_ROWS` rows every pair is counted exactly through an inverted index; above that, MinHash-LSH
(rensa) proposes pairs and each is verified with its exact Jaccard similarity. Either way no pair below the
threshold is ever reported. 128 permutations in 64 bands of 2 find a pair of similarity 0.4 with probability
0.99999, in 32 bands of 4 (fewer candidates, for thresholds from 0.6 on) one of 0.6 with 0.988.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import rensa

from lake.rules.shingles import I64, U64, Shingles, concatenate, jaccard

EXACT_ROWS = 4_000
NUM_PERM = 128
MINHASH_SEED = 20_260_101  # not the dataset's seed: clusters must not depend on it


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


def _pairs(found: Iterable[tuple[int, int, float]], method: str) -> NearPairs:
    ordered = sorted(found)
    left, right, similarity = zip(*ordered, strict=True) if ordered else ((), (), ())
    return NearPairs(
        np.array(left, dtype=np.int64),
        np.array(right, dtype=np.int64),
        np.array(similarity, dtype=np.float64),
        method,
    )


class _Inverted:
    """Rows by shingle; counts what a set shares with every row at once."""

    def __init__(self, shingles: Shingles) -> None:
        self.sizes = shingles.sizes
        self._hashes, columns = np.unique(shingles.hashes, return_inverse=True)
        order = np.argsort(columns, kind="stable")
        self._rows = np.repeat(np.arange(len(shingles)), self.sizes)[order]
        self._bounds = np.searchsorted(columns[order], np.arange(len(self._hashes) + 1))

    def similarity(self, row: U64) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Exact Jaccard similarity of a sorted set to every row."""
        if not len(row) or not len(self._hashes):
            return np.zeros(len(self.sizes))
        columns = np.minimum(np.searchsorted(self._hashes, row), len(self._hashes) - 1)
        hits = columns[self._hashes[columns] == row].tolist()
        if not hits:
            return np.zeros(len(self.sizes))
        rows = np.concatenate([self._rows[self._bounds[hit] : self._bounds[hit + 1]] for hit in hits])
        shared = np.bincount(rows, minlength=len(self.sizes))
        return shared / (len(row) + self.sizes - shared)


def _exact(shingles: Shingles, threshold: float) -> list[tuple[int, int, float]]:
    index = _Inverted(shingles)
    found: list[tuple[int, int, float]] = []
    for i, row in enumerate(shingles.rows()):
        similarity = index.similarity(row)[i + 1 :]
        (near,) = np.nonzero(similarity >= threshold)
        found.extend((i, i + 1 + j, float(similarity[j])) for j in near.tolist())
    return found


def _lsh(shingles: Shingles, threshold: float) -> list[tuple[int, int, float]]:
    filled = np.nonzero(shingles.sizes)[0]
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(shingles.sizes[filled])]).astype(np.uint64)
    minhash = cast(Any, rensa).RMinHash  # the package ships no type hints
    digests = minhash.digest_matrix_from_flat_token_hashes(shingles.hashes, offsets, NUM_PERM, MINHASH_SEED)
    signatures = np.array(digests.to_rows(), dtype=np.uint64).reshape(len(filled), NUM_PERM)
    width = 4 if threshold >= 0.6 else 2
    seen: set[tuple[int, int]] = set()
    found: list[tuple[int, int, float]] = []
    for band in range(NUM_PERM // width):
        part = np.ascontiguousarray(signatures[:, band * width : (band + 1) * width])
        keys = part.view([("", part.dtype)] * width).ravel()
        _, bucket = np.unique(keys, return_inverse=True)
        order = np.argsort(bucket, kind="stable")
        for members in np.split(order, np.nonzero(np.diff(bucket[order]))[0] + 1):
            rows = filled[members].tolist()
            for a, i in enumerate(rows):
                for j in rows[a + 1 :]:
                    if (i, j) not in seen:
                        seen.add((i, j))
                        value = jaccard(shingles.row(i), shingles.row(j))
                        if value >= threshold:
                            found.append((i, j, value))
    return found


def near_pairs(shingles: Shingles, threshold: float, exact_rows: int = EXACT_ROWS) -> NearPairs:
    """All pairs of rows with Jaccard similarity >= `threshold` (0 < threshold <= 1)."""
    if not 0.0 < threshold <= 1.0:
        raise ValueError("the near-duplicate threshold must lie above 0 and at most at 1")
    if len(shingles) <= exact_rows:
        return _pairs(_exact(shingles, threshold), "exact")
    return _pairs(_lsh(shingles, threshold), "minhash-lsh+verify")


def best_cross(left: Shingles, right: Shingles, floor: float, exact_rows: int = EXACT_ROWS) -> CrossPair:
    """The most similar pair with one row of each side; above `exact_rows` rows only from `floor` on."""
    if not len(left) or not len(right):
        return CrossPair(0.0, None, None, "exact")
    best: tuple[float, int, int] | None = None
    if len(left) + len(right) <= exact_rows:
        index, method = _Inverted(right), "exact"
        for i, row in enumerate(left.rows()):
            similarity = index.similarity(row)
            j = int(np.argmax(similarity))
            if best is None or similarity[j] > best[0]:
                best = (float(similarity[j]), i, j)
    else:
        pairs = near_pairs(concatenate([left, right]), floor, exact_rows)
        method = pairs.method
        for i, j, value in pairs.tuples():
            if i < len(left) <= j and (best is None or value > best[0]):
                best = (value, i, j - len(left))
    return CrossPair(*best, method) if best is not None else CrossPair(0.0, None, None, method)


def components(size: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `size` nodes the smallest node of its connected component (union-find)."""
    parent = list(range(size))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for a, b in edges:
        low, high = sorted((find(a), find(b)))
        parent[high] = low
    return [find(node) for node in range(size)]


def cluster_ids(
    keys: Sequence[str], edges: Iterable[tuple[int, int]], known: Callable[[str], str | None] = lambda _: None
) -> list[str]:
    """A cluster id for each key: `c-` + the first 16 hex of its component's smallest key.

    `known(key)` gives the id that a key had in an earlier build: a component that holds such keys keeps the
    smallest of their ids, so that clusters keep their names while they grow.
    """
    root_of = components(len(keys), edges)
    names: dict[int, tuple[bool, str]] = {}
    for key, root in zip(keys, root_of, strict=True):
        earlier = known(key)
        name = (earlier is None, earlier if earlier is not None else f"c-{key[:16]}")
        names[root] = min(names.get(root, name), name)
    return [names[root][1] for root in root_of]
