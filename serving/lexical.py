"""BM25 over word terms or character n-grams, in plain arrays that are mapped from disk.

Impact scores are computed at build (Robertson BM25 with Lucene's idf), stored column-wise: a question adds up one
array a term. `write_bm25` sorts block by block, so that the postings of 900,000 entries need no memory of their own.
A term of every second entry costs a long array and tells little: past `POSTINGS_BUDGET` the commonest terms only
re-score what rarer ones found. Invariant: scores are >= 0, and 0 for an entry that shares no term with the question;
the score of a position that is asked for is always that of all terms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lake.tool_table import blocks
from serving.mapped import StringTable, map_array, release, sorted_codes

K1 = 1.2  # Robertson and Zaragoza 2009, the usual range is 1.2 to 2
B = 0.5  # entries are short and of like length, so length says less than in web pages
POSTINGS_BUDGET = 400_000  # added up a question and kind of term: about 3 ms
_RESCORED = 1000  # the best by rare terms that the common ones score again
_BLOCK_DOCS = 16384

Positions = NDArray[np.int64]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Bm25:
    """`indptr[t]:indptr[t+1]` bounds the postings of term t: entry numbers `docs` (rising), scores `impacts`."""

    terms: StringTable  # sorted
    indptr: NDArray[np.int64]
    docs: NDArray[np.int32]
    impacts: NDArray[np.float32]
    idf: NDArray[np.float32]
    n_docs: int

    def __post_init__(self) -> None:
        """Raises `ValueError` where the arrays do not fit together."""
        sound = (
            len(self.indptr) == len(self.terms) + 1
            and len(self.idf) == len(self.terms)
            and len(self.docs) == len(self.impacts) == int(self.indptr[-1])
            and int(self.indptr[0]) == 0
            and bool((np.diff(self.indptr) >= 0).all())
        )
        if not sound:
            raise ValueError("the lexical arrays do not fit together")

    def _spans(self, terms: Sequence[str]) -> list[slice]:
        """Postings of the known terms, shortest first; repeated terms count once."""
        columns = [column for term in dict.fromkeys(terms) if (column := self.terms.find(term)) is not None]
        spans = [slice(int(self.indptr[column]), int(self.indptr[column + 1])) for column in columns]
        return sorted(spans, key=lambda span: span.stop - span.start)

    def _sum(self, spans: Sequence[slice]) -> Scores:
        total = np.zeros(self.n_docs, dtype=np.float32)
        for span in spans:
            total[self.docs[span]] += self.impacts[span]
        return total

    def scores(self, terms: Sequence[str]) -> Scores:
        """float32 [n_docs]: every entry, all postings of the terms."""
        return self._sum(self._spans(terms))

    def scores_at(self, terms: Sequence[str], positions: Positions) -> Scores:
        """float32 [len(positions)]: the same scores, of these entries alone."""
        return self._at(self._spans(terms), positions)

    def _at(self, spans: Sequence[slice], positions: Positions) -> Scores:
        total = np.zeros(len(positions), dtype=np.float32)
        wanted = positions.astype(np.int32)
        for span in spans:
            docs = self.docs[span]
            place = np.searchsorted(docs, wanted)
            place[place == len(docs)] = 0
            total += np.where(docs[place] == wanted, self.impacts[span][place], np.float32(0))
        return total

    def best(self, terms: Sequence[str], k: int, only: Positions | None = None) -> list[int]:
        """At most `k` positions with a positive score, best first; `only`: among these (rising)."""
        spans = self._spans(terms)
        sizes = np.cumsum([span.stop - span.start for span in spans])
        if only is not None and len(only) * max(len(spans), 1) < POSTINGS_BUDGET:
            return _top(only, self._at(spans, only), k)
        rare = max(1, int(np.searchsorted(sizes, POSTINGS_BUDGET, side="right")))
        total = self._sum(spans[:rare])
        touched = np.flatnonzero(total) if only is None else only[total[only] > 0]
        scores = total[touched]
        if rare < len(spans):
            kept = np.array(_top(touched, scores, max(_RESCORED, 4 * k)), dtype=np.int64)
            return _top(kept, total[kept] + self._at(spans[rare:], kept), k)
        return _top(touched, scores, k)

    def ideal(self, terms: Sequence[str]) -> float:
        """The score that an entry holding every known term once or more could reach: a scale for `scores`.

        A term that no entry has counts with the highest idf: what the question asks for is not here.
        """
        top = float(self.idf.max()) if len(self.idf) else 1.0
        ids = [self.terms.find(term) for term in dict.fromkeys(terms)]
        return sum(top if i is None else float(self.idf[i]) for i in ids) * (K1 + 1) / (K1 * 0.5 + 1) or 1.0


def _top(positions: Positions, scores: Scores, k: int) -> list[int]:
    """The `k` positions with the highest positive scores, best first, equal ones in order."""
    if len(scores) > k:
        cut = np.argpartition(-scores, k - 1)[:k]
        positions, scores = positions[cut], scores[cut]
    order = np.lexsort((positions, -scores))
    return [int(position) for position in positions[order[scores[order] > 0]]]


def write_bm25(
    documents: Iterable[Sequence[str]], folder: Path, name: str
) -> tuple[list[str], NDArray[np.int64], Scores]:
    """Write `<name>_docs.npy` and `<name>_impacts.npy` into `folder`; returns the terms in order, `indptr` and `idf`.
    An empty entry is allowed and never matches. Uses twice the disk while it works.
    """
    codes: defaultdict[str, int] = defaultdict()
    codes.default_factory = codes.__len__
    spilled: list[Path] = []
    lengths: list[NDArray[np.int64]] = []
    sizes = np.zeros(0, dtype=np.int64)
    first = 0
    for number, block in enumerate(blocks(documents, _BLOCK_DOCS)):
        lengths.append(np.array([len(terms) for terms in block], dtype=np.int64))
        columns = np.fromiter((codes[term] for terms in block for term in terms), dtype=np.int64)
        owners = np.repeat(np.arange(len(block)), lengths[-1])
        # One number a (term, entry): sorted by term, then entry; repeats are the frequency.
        keys, frequencies = np.unique(columns * _BLOCK_DOCS + owners, return_counts=True)
        postings = np.empty((3, len(keys)), dtype=np.int32)
        postings[0], postings[1], postings[2] = keys // _BLOCK_DOCS, keys % _BLOCK_DOCS + first, frequencies
        spilled.append(folder / f".{name}-{number}.npy")
        np.save(spilled[-1], postings)
        counts = np.bincount(postings[0], minlength=len(codes)).astype(np.int64)
        counts[: len(sizes)] += sizes
        sizes = counts
        first += len(block)
    names, renumbered = sorted_codes(codes)
    n_docs = first
    sizes = sizes[np.argsort(renumbered)] if len(sizes) else sizes
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    idf = np.log(1 + (n_docs - sizes + 0.5) / (sizes + 0.5))
    all_lengths = np.concatenate(lengths).astype(np.float64) if lengths else np.zeros(0)
    mean = max(float(all_lengths.mean()), 1e-9) if n_docs else 1.0
    norm = K1 * (1 - B + B * all_lengths / mean)
    docs, impacts = (
        _create(folder / f"{name}_{part}.npy", int(indptr[-1]), dtype)
        for part, dtype in (("docs", np.int32), ("impacts", np.float32))
    )
    ends = indptr[:-1].copy()
    for path in spilled:
        old, owners, frequencies = np.load(path, allow_pickle=False)
        columns = renumbered[old]
        order = np.argsort(columns, kind="stable")
        columns, owners, frequencies = columns[order], owners[order], frequencies[order].astype(np.float64)
        seen, starts, counts = np.unique(columns, return_index=True, return_counts=True)
        places = np.repeat(ends[seen] - starts, counts) + np.arange(len(columns))
        ends[seen] += counts
        docs[places] = owners
        impacts[places] = idf[columns] * frequencies * (K1 + 1) / (frequencies + norm[owners])
        path.unlink()
    for array in (docs, impacts):
        if isinstance(array, np.memmap):
            array.flush()
    return names, indptr, idf.astype(np.float32)


def _create(path: Path, length: int, dtype: Any) -> NDArray[Any]:
    if not length:  # an empty file can't be mapped
        np.save(path, np.zeros(0, dtype=dtype))
        return np.zeros(0, dtype=dtype)
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(length,))


def read_bm25(folder: Path, name: str, terms: StringTable, indptr: NDArray[np.int64], idf: Scores, n_docs: int) -> Bm25:
    """The index again, its postings mapped; raises `ValueError` where the arrays disagree."""
    docs, impacts = (map_array(folder / f"{name}_{part}.npy").view(np.ndarray) for part in ("docs", "impacts"))
    if len(docs) and (int(docs.min()) < 0 or int(docs.max()) >= n_docs):
        raise ValueError("the lexical arrays do not fit together")
    release(docs)
    return Bm25(terms, indptr, docs, impacts, idf, n_docs)
