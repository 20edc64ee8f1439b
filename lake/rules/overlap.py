"""How similar are these pairs of sets? Millions of pairs at a time: a lossless filter, then exact counts. Pure.

Each set has a bitmap, one bit a shingle (its hash modulo the width). A bit that stands in one bitmap alone needs a
shingle that stands in one set alone, so the bits that differ bound the symmetric difference from below and the
Jaccard similarity from above (Sandes, Teodoro and Melo 2020). What the bound leaves is counted exactly. No pair at
or above the threshold is ever lost here, none below it is ever let through.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from lake.rules.shingles import I64, U64, Shingles, spans

F64 = npt.NDArray[np.float64]

THREADS = 2
_PAIRS = 1 << 14  # at a time; what they touch stays in the cache
_TOKENS = 1 << 20  # shingles at a time in the exact count


def _in_threads(work: Callable[[int], None], parts: Sequence[int]) -> None:
    """numpy lets go of the interpreter in its loops, so two threads use two cores."""
    if len(parts) < 2:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, parts))


def _row_sums(counts: npt.NDArray[np.uint8]) -> I64:
    """Sum of each row of bit counts (at most 64 each, a multiple of 8 a row); numpy's own is slow on short rows."""
    low = np.uint64(0x00FF00FF00FF00FF)
    packed = counts.view(np.uint64)
    lanes = (packed & low) + ((packed >> np.uint64(8)) & low)  # four sums of 16 bits in each word
    sums = lanes * np.uint64(0x0001000100010001) >> np.uint64(48)
    return (sums[:, 0] if sums.shape[1] == 1 else sums.sum(axis=1)).astype(np.int64)


class Overlaps:
    """Similarities of pairs of rows of one `Shingles`; holds 64 to 512 bytes a row."""

    def __init__(self, shingles: Shingles) -> None:
        self._shingles = shingles
        self._sizes = shingles.sizes
        filled = self._sizes[self._sizes > 0]
        typical = float(np.quantile(filled, 0.9)) if len(filled) else 0.0
        self.bits = 512 if typical <= 128 else 1024 if typical <= 256 else 4096
        self._bitmaps = self._make_bitmaps()

    def _make_bitmaps(self) -> U64:
        """uint64 [rows, bits / 64]."""
        words = self.bits // 64
        bitmaps = np.zeros((len(self._sizes), words), dtype=np.uint64)
        flat = bitmaps.reshape(-1)
        step = 1 << 16
        for first in range(0, len(self._sizes), step):
            sizes = self._sizes[first : first + step]
            start, stop = self._shingles.offsets[[first, first + len(sizes)]]
            hashes = self._shingles.hashes[start:stop]
            bit = hashes & np.uint32(self.bits - 1)
            # set as bytes (a plain store, order does not matter), then packed
            wide = np.zeros((len(sizes), self.bits), dtype=np.bool_)
            wide.reshape(-1)[np.repeat(np.arange(len(sizes)) * self.bits, sizes) + bit] = True
            packed = np.packbits(wide, axis=1).view(np.uint64)
            flat[first * words : (first + len(sizes)) * words] = packed.reshape(-1)
        return bitmaps

    def possible(self, left: I64, right: I64, threshold: float) -> npt.NDArray[np.bool_]:
        """False only where the pair's similarity is below `threshold`."""
        return self.bound(left, right) >= threshold

    def bound(self, left: I64, right: I64) -> F64:
        """A number that the pair's similarity does not exceed; 0 where both sets are empty."""
        out = np.empty(len(left))

        def work(first: int) -> None:
            a, b = left[first : first + _PAIRS], right[first : first + _PAIRS]
            bits = self._bitmaps.take(a, axis=0)
            bits ^= self._bitmaps.take(b, axis=0)
            differ = _row_sums(np.bitwise_count(bits))
            total = self._sizes[a] + self._sizes[b]
            # J = shared / (total - shared), and shared <= (total - differ) / 2; `total` is whole, so the quotient
            # is the same float as the exact one where the bound is tight
            shared = (total - differ) // 2
            out[first : first + _PAIRS] = shared / np.maximum(total - shared, 1)

        _in_threads(work, list(range(0, len(left), _PAIRS)))
        return out

    def exact(self, left: I64, right: I64) -> F64:
        """Exact Jaccard similarity of each pair; 0 where a set is empty."""
        out = np.zeros(len(left))
        cost = np.cumsum(self._sizes[left] + self._sizes[right])
        bounds = [0]
        while bounds[-1] < len(left):
            done = int(cost[bounds[-1] - 1]) if bounds[-1] else 0
            bounds.append(max(bounds[-1] + 1, int(np.searchsorted(cost, done + _TOKENS, side="right"))))

        def work(number: int) -> None:
            part = slice(bounds[number], bounds[number + 1])
            out[part] = self._exact(left[part], right[part])

        _in_threads(work, list(range(len(bounds) - 1)))
        return out

    def _exact(self, left: I64, right: I64) -> F64:
        """Both sets of a pair side by side, sorted: what is shared stands twice."""
        starts, hashes = self._shingles.offsets[:-1], self._shingles.hashes
        number = np.arange(len(left), dtype=np.uint64) << np.uint64(32)
        words = np.concatenate(
            [np.repeat(number, self._sizes[s]) | hashes[spans(starts[s], self._sizes[s])] for s in (left, right)]
        )
        words.sort()
        twice = (words[1:][words[1:] == words[:-1]] >> np.uint64(32)).astype(np.int64)
        shared = np.bincount(twice, minlength=len(left))
        union = self._sizes[left] + self._sizes[right] - shared
        return shared / np.maximum(union, 1)

    def near(self, left: I64, right: I64, threshold: float) -> tuple[I64, I64, F64]:
        """The pairs at or above the threshold, with their similarity."""
        keep = self.possible(left, right, threshold)
        left, right = left[keep], right[keep]
        similarity = self.exact(left, right)
        near = similarity >= threshold
        return left[near], right[near], similarity[near]
