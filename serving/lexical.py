"""BM25 over word terms or character n-grams, in plain numpy arrays that load without parsing.

Impact scores are computed at build (Robertson BM25 with Lucene's idf), stored column-wise: a question adds up
one short array a term. Reads and writes `<name>.npz`-like arrays through `arrays()` and `from_arrays()` and a
list of terms. Invariant: scores are >= 0, and 0 for an entry that shares no term with the question.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

K1 = 1.2  # Robertson and Zaragoza 2009, the usual range is 1.2 to 2
B = 0.5  # entries are short and of like length, so length says less than in web pages


@dataclass(frozen=True)
class Bm25:
    """`indptr[t]:indptr[t+1]` bounds the postings of term t: entry numbers `docs`, scores `impacts`."""

    vocabulary: dict[str, int]
    indptr: NDArray[np.int64]
    docs: NDArray[np.int32]
    impacts: NDArray[np.float32]
    idf: NDArray[np.float32]
    n_docs: int

    def scores(self, terms: Sequence[str]) -> NDArray[np.float32]:
        """float32 [n_docs]; repeated terms count once."""
        total = np.zeros(self.n_docs, dtype=np.float32)
        for term in dict.fromkeys(terms):
            column = self.vocabulary.get(term)
            if column is not None:
                span = slice(int(self.indptr[column]), int(self.indptr[column + 1]))
                total[self.docs[span]] += self.impacts[span]
        return total

    def ideal(self, terms: Sequence[str]) -> float:
        """The score that an entry holding every known term once or more could reach: a scale for `scores`.

        A term that no entry has counts with the highest idf: what the question asks for is not here.
        """
        top = float(self.idf.max()) if len(self.idf) else 1.0
        ids = [self.vocabulary.get(term) for term in dict.fromkeys(terms)]
        return sum(top if i is None else float(self.idf[i]) for i in ids) * (K1 + 1) / (K1 * 0.5 + 1) or 1.0

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What `from_arrays` needs beside the terms."""
        return {"indptr": self.indptr, "docs": self.docs, "impacts": self.impacts, "idf": self.idf}


def build_bm25(documents: Iterable[Sequence[str]]) -> Bm25:
    """Index the terms of each entry; an empty entry is allowed and never matches."""
    vocabulary: dict[str, int] = {}
    # Plain C arrays: a posting costs 12 bytes while the index is built, not a Python tuple.
    owners, columns, repeats, sizes_of_docs = array("i"), array("i"), array("i"), array("i")
    n_docs = 0
    for terms in documents:
        count = Counter(terms)
        sizes_of_docs.append(sum(count.values()))
        for term, frequency in count.items():
            owners.append(n_docs)
            columns.append(vocabulary.setdefault(term, len(vocabulary)))
            repeats.append(frequency)
        n_docs += 1
    column_of = np.frombuffer(columns, dtype=np.int32) if columns else np.zeros(0, dtype=np.int32)
    order = np.argsort(column_of, kind="stable")
    docs = np.frombuffer(owners, dtype=np.int32)[order] if owners else np.zeros(0, dtype=np.int32)
    freqs = (np.frombuffer(repeats, dtype=np.int32)[order] if repeats else np.zeros(0)).astype(np.float64)
    sizes = np.bincount(column_of, minlength=len(vocabulary)).astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    lengths = np.array(sizes_of_docs, dtype=np.float64)
    mean = max(float(lengths.mean()), 1e-9) if n_docs else 1.0
    idf = np.log(1 + (n_docs - sizes + 0.5) / (sizes + 0.5))
    norm = K1 * (1 - B + B * lengths / mean)
    impacts = np.repeat(idf, sizes) * freqs * (K1 + 1) / (freqs + norm[docs]) if len(docs) else freqs
    return Bm25(vocabulary, indptr, docs, impacts.astype(np.float32), idf.astype(np.float32), n_docs)


def bm25_from_arrays(terms: Sequence[str], arrays: dict[str, NDArray[np.generic]], n_docs: int) -> Bm25:
    """The index again, from `arrays()` and the terms in column order; raises `ValueError` where they
    disagree.
    """
    indptr = arrays["indptr"].astype(np.int64, copy=False)
    docs = arrays["docs"].astype(np.int32, copy=False)
    impacts = arrays["impacts"].astype(np.float32, copy=False)
    idf = arrays["idf"].astype(np.float32, copy=False)
    sound = (
        len(indptr) == len(terms) + 1
        and len(idf) == len(terms)
        and len(docs) == len(impacts) == int(indptr[-1])
        and int(indptr[0]) == 0
        and bool((np.diff(indptr) >= 0).all())
        and (len(docs) == 0 or (int(docs.min()) >= 0 and int(docs.max()) < n_docs))
    )
    if not sound:
        raise ValueError("the lexical arrays do not fit together")
    return Bm25({term: i for i, term in enumerate(terms)}, indptr, docs, impacts, idf, n_docs)
