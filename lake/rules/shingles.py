"""Questions as sets of hashed character n-grams over Hangul letters, ready for Jaccard and MinHash. Pure.

A Hangul syllable is one character but two or three letters, so a one-letter typo would change every n-gram of
a syllable. Here a text is taken apart into letters (jamo, NFD) after case, spaces and punctuation are gone:
`화상회의 툴` and `화상 회의툴?` are the same, one mistyped letter changes 3 n-grams of some 40.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lake.text import sha256_text

NGRAM = 3  # letters; SHINGLING names the whole recipe in manifests
SHINGLING = f"nfkc-casefold-jamo-{NGRAM}gram-v1"

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]


def normalise_question(text: str) -> str:
    """Letters and digits only, compatibility forms folded (NFKC), lower case; may be empty."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char for char in folded if char.isalnum() or char in "+#")


def question_key(text: str) -> str:
    """Hex sha256 of the normalised question: equal keys are exact duplicates."""
    return sha256_text(normalise_question(text))


@dataclass(frozen=True)
class Shingles:
    """Row i is the sorted set `hashes[offsets[i]:offsets[i + 1]]` (uint64, without repeats)."""

    hashes: U64
    offsets: I64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, i: int) -> U64:
        return self.hashes[self.offsets[i] : self.offsets[i + 1]]

    def rows(self) -> Iterator[U64]:
        return (self.row(i) for i in range(len(self)))

    @property
    def sizes(self) -> I64:
        return np.diff(self.offsets)


def _mix(values: U64) -> U64:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): spreads near codes over all 64 bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def from_rows(rows: Sequence[U64]) -> Shingles:
    """Shingles out of one array a row, each already sorted and without repeats."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    hashes = np.concatenate(rows) if rows else np.zeros(0, dtype=np.uint64)
    return Shingles(hashes.astype(np.uint64, copy=False), offsets)


def shingle(texts: Sequence[str]) -> Shingles:
    """Hashed n-gram sets of the normalised texts; a shorter text is one shingle, an empty one has none."""
    letters = [unicodedata.normalize("NFD", normalise_question(text)) for text in texts]
    padded = [text.ljust(NGRAM, "\0") if text else "" for text in letters]
    codes = np.frombuffer("".join(padded).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
    if len(codes) < NGRAM:
        return from_rows([np.zeros(0, dtype=np.uint64)] * len(texts))
    windows = len(codes) - NGRAM + 1
    hashed = np.zeros(windows, dtype=np.uint64)
    for place in range(NGRAM):
        hashed = _mix(hashed * np.uint64(0x9E3779B97F4A7C15) + codes[place : place + windows] + np.uint64(1))
    rows = [
        np.unique(hashed[start : start + length - NGRAM + 1]) if length else np.zeros(0, dtype=np.uint64)
        for start, length in zip(starts[:-1].tolist(), lengths.tolist(), strict=True)
    ]
    return from_rows(rows)


def concatenate(parts: Sequence[Shingles]) -> Shingles:
    """The rows of all parts, in order."""
    return from_rows([row for part in parts for row in part.rows()])


def jaccard(a: U64, b: U64) -> float:
    """Exact Jaccard similarity of two sorted sets; two empty sets are not similar."""
    if not len(a) or not len(b):
        return 0.0
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)
