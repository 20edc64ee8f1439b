"""Near-duplicates among millions of rows: which rows are near which, and which hang together. Pure.

Small inputs are compared pair by pair, so every answer is exact. Larger ones go through MinHash-LSH (`minhash.py`,
`buckets.py`), and each proposal is counted exactly (`overlap.py`): a pair below the threshold is never reported, one
at or above it is missed with the probability that `thorough(threshold)` states. Invariant: the answer follows from
the sets alone, in whatever order they come.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lake.rules import buckets
from lake.rules.buckets import Effort, Pairs
from lake.rules.graph import join
from lake.rules.minhash import PERMUTATIONS, U16, miss_probability, signatures
from lake.rules.overlap import F64, Overlaps
from lake.rules.shingles import I64, Shingles

EXACT_CELLS = 20_000_000  # pairs that are simply all compared: about a second
PROOF_CELLS = 200_000_000  # where it is a proof that two sides do not touch
CAP = 128  # rows of a bucket whose pairs are all compared


@dataclass(frozen=True)
class Banding:
    """`bands` bands of `width` MinHash values."""

    width: int
    bands: int

    def miss(self, similarity: float) -> float:
        """How probable it is that a pair of this similarity is not proposed."""
        return miss_probability(similarity, self.bands, self.width)


def _widest(similarity: float, miss: float) -> Banding:
    bandings = [Banding(width, PERMUTATIONS // width) for width in range(1, 13)]
    return max((one for one in bandings if one.miss(similarity) <= miss), key=lambda one: one.width)


def quick(threshold: float) -> Banding:
    """For clusters, where a missed pair often hangs together by others: at most 5 % missed at `threshold` + 0.1."""
    return _widest(min(threshold + 0.1, 1.0), 0.05)


def thorough(threshold: float) -> Banding:
    """For what must not touch: at most 2 % missed at `threshold` itself (0.4: 1.5 %; pairs of 0.5: 0.02 %)."""
    return _widest(threshold, 0.02)


class NearIndex:
    """Asks about rows of one `Shingles`; signatures (384 bytes a row) and bitmaps are made when first needed."""

    def __init__(self, shingles: Shingles, threshold: float, exact_cells: int = EXACT_CELLS) -> None:
        """`exact_cells`: up to so many pairs all are compared."""
        if not 0.0 < threshold <= 1.0:
            raise ValueError("the near-duplicate threshold must lie above 0 and at most at 1")
        self.shingles = shingles
        self.threshold = threshold
        self.effort = Effort()
        self.exact = True  # whether every pair was compared so far
        self._exact_cells = exact_cells

    @cached_property
    def overlaps(self) -> Overlaps:
        return Overlaps(self.shingles)

    @cached_property
    def _signatures(self) -> U16:
        return signatures(self.shingles)

    def _is_exact(self, cells: int, limit: int | None = None) -> bool:
        self.exact &= (exact := cells <= (self._exact_cells if limit is None else limit))
        return exact

    def _filled(self, rows: I64) -> I64:
        return rows[self.shingles.sizes[rows] > 0]

    def _inside(self, rows: I64, banding: Banding) -> Iterator[Pairs]:
        if self._is_exact(len(rows) * (len(rows) - 1) // 2):
            yield from _triangle(rows)
        else:
            yield from buckets.within(self._signatures, rows, banding.width, banding.bands, CAP, self.effort)

    def labels(self, rows: I64) -> I64:
        """For each of `rows` (ascending) the place in `rows` of the first one that it hangs together with."""
        labels = np.arange(len(rows))
        place = np.zeros(len(self.shingles), dtype=np.int64)
        place[rows] = labels
        filled = self._filled(rows)
        banding = quick(self.threshold)

        def take(proposals: Iterable[Pairs]) -> None:
            nonlocal labels
            for left, right in proposals:
                new = labels[place[left]] != labels[place[right]]  # what hangs together already needs no proof
                a, b, _ = self.near(left[new], right[new])
                labels = join(labels, place[a], place[b])

        if not self._is_exact(len(filled) * (len(filled) - 1) // 2):
            take(buckets.stars(self._signatures, filled, banding.width, banding.bands))
        take(self._inside(filled, banding))
        return labels

    def pairs(self, rows: I64) -> tuple[I64, I64, F64]:
        """All near pairs of `rows` (left < right) and their similarity, sorted."""
        filled = self._filled(rows)
        found = [self.near(a, b) for a, b in self._inside(filled, thorough(self.threshold))]
        return _unique(found)

    def cross(
        self, left: I64, right: I64, banding: Banding | None = None, exact_cells: int | None = None
    ) -> Iterator[Pairs]:
        """Pairs of a row of each side that may be near: all of them, or what banding (thorough) proposes."""
        left, right = self._filled(left), self._filled(right)
        if self._is_exact(len(left) * len(right), exact_cells):
            yield from _rectangle(left, right)
        else:
            one = banding or thorough(self.threshold)
            yield from buckets.across(self._signatures, left, right, one.width, one.bands, CAP * CAP, self.effort)

    def near(self, left: I64, right: I64) -> tuple[I64, I64, F64]:
        """Those of the pairs that are near."""
        return self.overlaps.near(left, right, self.threshold)

    def touching(self, left: I64, right: I64, exact_cells: int | None = None) -> npt.NDArray[np.bool_]:
        """Which rows of `left` are near a row of `right`."""
        hit = np.zeros(len(self.shingles), dtype=np.bool_)
        for a, b in self.cross(left, right, None, exact_cells):
            new = ~hit[a]
            hit[self.near(a[new], b[new])[0]] = True
        return hit[left]


def _triangle(rows: I64) -> Iterator[Pairs]:
    place, apart = np.arange(len(rows)), 1
    while apart < len(rows):
        last = apart
        left, right, waiting = [], [], 0
        while last < len(rows) and waiting < buckets.CHUNK:
            left.append(place[: len(rows) - last])
            right.append(place[last:])
            waiting += len(rows) - last
            last += 1
        yield rows[np.concatenate(left)], rows[np.concatenate(right)]
        apart = last


def _rectangle(left: I64, right: I64) -> Iterator[Pairs]:
    step = max(1, buckets.CHUNK // max(len(right), 1))
    for first in range(0, len(left) if len(right) else 0, step):
        part = left[first : first + step]
        yield np.repeat(part, len(right)), np.tile(right, len(part))


def _unique(found: list[tuple[I64, I64, F64]]) -> tuple[I64, I64, F64]:
    if not found:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)
    left, right, similarity = (np.concatenate(part) for part in zip(*found, strict=True))
    words = (left.astype(np.uint64) << np.uint64(32)) | right.astype(np.uint64)
    _, first = np.unique(words, return_index=True)
    return left[first], right[first], similarity[first]
