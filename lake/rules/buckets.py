"""Locality-sensitive hashing: which pairs of rows are worth comparing. Pure.

A band is a few MinHash values; rows that agree in a whole band share a bucket, and a bucket proposes its pairs. A
phrase that a tenth of all questions ends with makes huge buckets in which hardly a pair is near, so a bucket that
is too large is divided by one more MinHash value, and again (an LSH forest, Bawa, Condie and Ganesan 2005): near
pairs agree in the next value more often than others. What that costs in recall is counted and told.

Invariant: which pairs a band proposes does not depend on the order of rows. Every proposal is only a proposal:
`overlap.py` counts it exactly before anything follows from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lake.rules.minhash import U16, band_keys
from lake.rules.shingles import I64, U64, spans

CHUNK = 1 << 21  # pairs at a time
DEEPEST = 6  # MinHash values more than the band's own
_HIGH = np.uint64(0xFFFFFFFF00000000)
_LOW = np.uint64(0x00000000FFFFFFFF)

Pairs = tuple[I64, I64]


@dataclass
class Effort:
    """What was proposed; `deepened`: pairs of buckets that were too large, of which only the likelier were."""

    proposed: int = 0
    deepened: int = 0


@dataclass(frozen=True)
class _Buckets:
    """`rows[starts[g] : starts[g] + sizes[g]]` share the key `keys[g]` (ascending)."""

    rows: I64
    keys: U64
    starts: I64
    sizes: I64


def _bucket(keys: U64, rows: I64) -> _Buckets:
    """Rows by key. 32 bits of the key sort together with the place of the row, in one word."""
    words = (keys & _HIGH) | np.arange(len(rows), dtype=np.uint64)
    words.sort()
    high = words & _HIGH
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(high), 1), dtype=np.bool_), high[1:] != high[:-1]]))
    sizes = np.diff(np.append(starts, len(high)))
    return _Buckets(rows[(words & _LOW).astype(np.int64)], high[starts], starts, sizes)


def _columns(values: U16, rows: I64) -> U16:
    """These columns; neighbours are not copied."""
    if len(rows) and int(rows[-1]) - int(rows[0]) + 1 == len(rows) and bool((np.diff(rows) == 1).all()):
        return values[:, rows[0] : rows[-1] + 1]
    return values[:, rows]


def _refine(keys: U64, values: U16) -> U64:
    """Keys that differ where the next MinHash value does."""
    mixed = (keys ^ values) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(31))


def stars(signatures: U16, rows: I64, width: int, bands: int) -> Iterator[Pairs]:
    """Each row of a bucket with the bucket's first, band by band: linear, and joins the copies of a popular text."""
    for band in range(bands):
        found = _bucket(band_keys(_columns(signatures[band * width : (band + 1) * width], rows)), rows)
        others = spans(found.starts + 1, found.sizes - 1)
        yield np.repeat(found.rows[found.starts], found.sizes - 1), found.rows[others]


def within(signatures: U16, chosen: I64, width: int, bands: int, cap: int, effort: Effort) -> Iterator[Pairs]:
    """Pairs of the chosen rows that share a bucket, the smaller row first; a pair can come more than once.

    Buckets of more than `cap` rows are divided; one that stays too large gives each row its next `cap` rows.
    """
    for band in range(bands):
        rows = chosen
        keys = band_keys(_columns(signatures[band * width : (band + 1) * width], rows))
        for depth in range(DEEPEST + 1):
            found = _bucket(keys, rows)
            large = (found.sizes > cap) & (depth < DEEPEST)
            few = (found.sizes > 1) & ~large
            yield from _all_pairs(found.rows[spans(found.starts[few], found.sizes[few])], found.sizes[few], cap, effort)
            if not large.any():
                break
            if not depth:
                effort.deepened += int((found.sizes[large] * (found.sizes[large] - 1) // 2).sum())
            rows = found.rows[spans(found.starts[large], found.sizes[large])]
            column = ((band + 1) * width + depth) % len(signatures)
            keys = _refine(np.repeat(found.keys[large], found.sizes[large]), signatures[column][rows])


def _all_pairs(rows: I64, sizes: I64, cap: int, effort: Effort) -> Iterator[Pairs]:
    """Every pair of each bucket: all pairs one place apart, then two, and so on."""
    place = np.arange(len(rows))
    end = np.repeat(np.cumsum(sizes), sizes)
    left: list[I64] = []
    right: list[I64] = []
    waiting = 0
    for apart in range(1, cap + 1):
        keep = place + apart < end
        place, end = place[keep], end[keep]
        if not len(place):
            break
        left.append(rows[place])
        right.append(rows[place + apart])
        waiting += len(place)
        effort.proposed += len(place)
        if waiting >= CHUNK:
            yield _ordered(np.concatenate(left), np.concatenate(right))
            left, right, waiting = [], [], 0
    if waiting:
        yield _ordered(np.concatenate(left), np.concatenate(right))


def _ordered(a: I64, b: I64) -> Pairs:
    return np.minimum(a, b), np.maximum(a, b)


def across(signatures: U16, left: I64, right: I64, width: int, bands: int, cap: int, effort: Effort) -> Iterator[Pairs]:
    """Pairs of a row of `left` and a row of `right` that share a bucket; repeats may come.

    Buckets of more than `cap` pairs are divided; one that stays too large gives all its pairs.
    """
    for band in range(bands):
        part = slice(band * width, (band + 1) * width)
        sides = [(rows, band_keys(_columns(signatures[part], rows))) for rows in (left, right)]
        for depth in range(DEEPEST + 1):
            one, other = (_bucket(keys, rows) for rows, keys in sides)
            a, b = _common(one.keys, other.keys)
            pairs = one.sizes[a] * other.sizes[b]
            large = (pairs > cap) & (depth < DEEPEST)
            yield from _product(one, a[~large], other, b[~large], effort)
            if not large.any():
                break
            if not depth:
                effort.deepened += int(pairs[large].sum())
            column = signatures[((band + 1) * width + depth) % len(signatures)]
            sides = [_divided(found, chosen[large], column) for found, chosen in ((one, a), (other, b))]


def _divided(found: _Buckets, chosen: I64, values: U16) -> tuple[I64, U64]:
    rows = found.rows[spans(found.starts[chosen], found.sizes[chosen])]
    return rows, _refine(np.repeat(found.keys[chosen], found.sizes[chosen]), values[rows])


def _common(a: U64, b: U64) -> Pairs:
    """Where the keys stand that both (ascending, no repeats) hold."""
    if not len(a) or not len(b):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    at = np.minimum(np.searchsorted(b, a), len(b) - 1)
    same = b[at] == a
    return np.flatnonzero(same), at[same]


def _product(one: _Buckets, a: I64, other: _Buckets, b: I64, effort: Effort) -> Iterator[Pairs]:
    """Every row of bucket `a[k]` with every row of bucket `b[k]`."""
    places = spans(one.starts[a], one.sizes[a])
    partners = np.repeat(other.sizes[b], one.sizes[a])
    begin = np.repeat(other.starts[b], one.sizes[a])
    total = np.cumsum(partners)
    first = 0
    while first < len(places):
        done = int(total[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(total, done + CHUNK, side="right")))
        part = slice(first, last)
        effort.proposed += int(total[last - 1]) - done
        yield np.repeat(one.rows[places[part]], partners[part]), other.rows[spans(begin[part], partners[part])]
        first = last
