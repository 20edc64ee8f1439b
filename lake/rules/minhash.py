"""MinHash signatures and the band keys of locality-sensitive hashing, whole columns at a time in numpy. Pure.

Value p of a row is the least `multiplier[p] * hash` (mod 2^16) over its shingles: two rows agree in one value with
probability J, their Jaccard similarity. The shingles are hashed well already, and on such input multiplication
alone is min-wise enough (Mitzenmacher and Vadhan 2008). 16 bits do, since what they propose is counted exactly:
half the memory and the time of 32. A test holds the estimate against exact similarities.
rensa computes 32-bit signatures as fast, but gives its matrix away as Python lists only, which costs several times
the hashing (decision 0017).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from lake.rules.shingles import I64, U64, Shingles

PERMUTATIONS = 192  # 48 bands of 4 or 64 of 3
SEED = 20_260_101  # not the dataset's seed: clusters must not depend on it
THREADS = 2
_CELLS = 1 << 17  # hashes at a time: stays in the second-level cache
_VIEWS = 4  # different 16 bits of each hash, so that two shingles never collide in all permutations

U16 = npt.NDArray[np.uint16]


def signatures(shingles: Shingles, count: int = PERMUTATIONS) -> U16:
    """uint16 [count, rows]; a row without shingles has the largest value everywhere."""
    sizes = shingles.sizes
    out = np.full((count, len(sizes)), np.iinfo(np.uint16).max, dtype=np.uint16)
    random = np.random.Generator(np.random.PCG64(SEED))
    views = random.integers(0, 1 << 31, size=_VIEWS, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    factors = random.integers(0, 1 << 15, size=count, dtype=np.uint16) * np.uint16(2) + np.uint16(1)

    def work(rows: I64) -> None:
        longest = int(sizes[rows[-1]])
        places = np.minimum(np.arange(longest)[:, None], sizes[rows] - 1)  # a repeated shingle changes no minimum
        block = shingles.hashes[shingles.offsets[rows] + places]
        least = np.empty((count, len(rows)), dtype=np.uint16)
        for number, view in enumerate(views):
            halves = (block * view >> np.uint32(16)).astype(np.uint16)
            product = np.empty_like(halves)
            for place in range(number, count, _VIEWS):
                np.multiply(halves, factors[place], out=product)
                np.minimum.reduce(product, axis=0, out=least[place])
        out[:, rows] = least

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, _pieces(sizes)))
    return out


def _pieces(sizes: I64) -> list[I64]:
    """Rows that have shingles, those of like sizes together (little padding), some `_CELLS` hashes a piece."""
    order = np.argsort(sizes, kind="stable")
    order = order[np.searchsorted(sizes[order], 1) :]
    pieces: list[I64] = []
    first = 0
    while first < len(order):
        hopeful = _CELLS // int(sizes[order[first]])
        step = max(1, _CELLS // int(sizes[order[min(first + hopeful, len(order) - 1)]]))
        pieces.append(order[first : first + step])
        first += step
    return pieces


def band_keys(values: U16) -> U64:
    """One uint64 a row out of uint16 [width, rows]: equal columns, equal keys."""
    key = np.zeros(values.shape[1], dtype=np.uint64)
    for line in values:
        key ^= line
        key *= np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key


def miss_probability(similarity: float, bands: int, width: int) -> float:
    """How probable it is that a pair of this similarity shares no band."""
    return (1.0 - similarity**width) ** bands
