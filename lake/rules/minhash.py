"""MinHash signatures and the band keys of locality-sensitive hashing, whole columns at a time in numpy. Pure.

Value p of a row is the least `multiplier[p] * hash` (mod 2^32) over its shingles: two rows agree in one value with
probability J, their Jaccard similarity. The shingles are hashed well already, and on such input multiplication
alone is min-wise enough (Mitzenmacher and Vadhan 2008; a test holds the estimate against exact similarities).
rensa computes the same as fast, but gives its matrix away as Python lists only, which costs three times the hashing
(decision 0017).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from lake.rules.shingles import U32, U64, Shingles

PERMUTATIONS = 192  # 48 bands of 4 or 64 of 3
SEED = 20_260_101  # not the dataset's seed: clusters must not depend on it
THREADS = 2
_CELLS = 1 << 18  # hashes at a time: 1 MiB, stays in the second-level cache


def multipliers(count: int = PERMUTATIONS) -> U32:
    """Odd factors, always the same ones; fewer are the first of more."""
    random = np.random.Generator(np.random.PCG64(SEED))
    return random.integers(0, 1 << 31, size=count, dtype=np.uint32) * np.uint32(2) + np.uint32(1)


def signatures(shingles: Shingles, count: int = PERMUTATIONS) -> U32:
    """uint32 [count, rows]; a row without shingles has the largest value everywhere."""
    sizes = shingles.sizes
    out = np.full((count, len(sizes)), np.iinfo(np.uint32).max, dtype=np.uint32)
    order = np.argsort(sizes, kind="stable")
    order = order[np.searchsorted(sizes[order], 1) :]  # rows of like sizes together: little padding
    factors = multipliers(count)

    def work(rows: npt.NDArray[np.int64]) -> None:
        longest = int(sizes[rows[-1]])
        places = np.minimum(np.arange(longest)[:, None], sizes[rows] - 1)  # a repeated shingle changes no minimum
        block = shingles.hashes[shingles.offsets[rows] + places]
        product = np.empty_like(block)
        least = np.empty((count, len(rows)), dtype=np.uint32)
        for number, factor in enumerate(factors):
            np.multiply(block, factor, out=product)
            np.minimum.reduce(product, axis=0, out=least[number])
        out[:, rows] = least

    pieces: list[npt.NDArray[np.int64]] = []
    first = 0
    while first < len(order):
        step = max(1, _CELLS // int(sizes[order[min(first + _CELLS // int(sizes[order[first]]), len(order) - 1)]]))
        pieces.append(order[first : first + step])
        first += step
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, pieces))
    return out


def band_keys(values: U32) -> U64:
    """One uint64 a row out of uint32 [width, rows]: equal columns, equal keys."""
    key = np.zeros(values.shape[1], dtype=np.uint64)
    for line in values:
        key ^= line
        key *= np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key


def miss_probability(similarity: float, bands: int, width: int) -> float:
    """How probable it is that a pair of this similarity shares no band."""
    return (1.0 - similarity**width) ** bands
