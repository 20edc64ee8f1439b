"""Questions as sets of hashed character n-grams over Hangul letters, ready for Jaccard and MinHash. Pure.

A Hangul syllable is one character but two or three letters, so a one-letter typo would change every n-gram of
a syllable. Here a text is taken apart into letters (jamo, NFD) after case, spaces and punctuation are gone:
`화상회의 툴` and `화상 회의툴?` are the same, one mistyped letter changes 3 n-grams of some 40.
Texts are worked on thousands at a time: one pass of unicodedata and one of numpy over all their letters. A text
never meets its neighbour in the batch: rows of a batch equal rows alone (tested).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lake.text import sha256_text

NGRAM = 3  # letters; SHINGLING names the whole recipe in manifests
SHINGLING = f"nfkc-casefold-jamo-{NGRAM}gram-v2"
BATCH = 50_000  # texts at a time: bounds the memory of the letters

U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_NOT_KEPT = re.compile(r"[^\w+#\n]|_")  # \w is str.isalnum() and the underscore
_CODE_BITS = np.uint64(21)  # a code point needs 21: three of them fill one word without loss


def normalise_questions(texts: Sequence[str]) -> list[str]:
    """`normalise_question` of each, some five times as fast as one by one."""
    out: list[str] = []
    for first in range(0, len(texts), BATCH):
        joined = "\n".join([text.replace("\n", " ") for text in texts[first : first + BATCH]])
        folded = unicodedata.normalize("NFKC", joined).casefold()  # a line break composes with nothing
        out += _NOT_KEPT.sub("", folded).split("\n")
    return out


def normalise_question(text: str) -> str:
    """Letters and digits only, compatibility forms folded (NFKC), lower case; may be empty."""
    return normalise_questions([text])[0]


def question_key(text: str) -> str:
    """Hex sha256 of the normalised question: equal keys are exact duplicates."""
    return sha256_text(normalise_question(text))


def question_keys(texts: Sequence[str]) -> list[str]:
    """`question_key` of each."""
    return [hashlib.sha256(text.encode()).hexdigest() for text in normalise_questions(texts)]


@dataclass(frozen=True)
class Shingles:
    """Row i is the sorted set `hashes[offsets[i]:offsets[i + 1]]` (uint32, without repeats)."""

    hashes: U32
    offsets: I64

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, i: int) -> U32:
        return self.hashes[self.offsets[i] : self.offsets[i + 1]]

    def rows(self) -> Iterator[U32]:
        return (self.row(i) for i in range(len(self)))

    @property
    def sizes(self) -> I64:
        return np.diff(self.offsets)

    def take(self, rows: I64) -> Shingles:
        """These rows, in this order."""
        sizes = self.sizes[rows]
        return Shingles(self.hashes[spans(self.offsets[:-1][rows], sizes)], offsets_of(sizes))


def offsets_of(sizes: I64) -> I64:
    """Where rows of these sizes start and end in one flat array: int64 [n + 1]."""
    out = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=out[1:])
    return out


def spans(starts: I64, sizes: I64) -> I64:
    """The positions start, start + 1, ..., start + size - 1 of every row, one after the other."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - sizes), sizes)


def _mix(values: U64) -> U64:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014) in place: spreads near codes over all 64 bits."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def from_rows(rows: Sequence[npt.NDArray[np.unsignedinteger]]) -> Shingles:
    """Shingles out of one array a row, each already sorted and without repeats."""
    hashes = np.concatenate(rows) if rows else np.zeros(0, dtype=np.uint32)
    return Shingles(hashes.astype(np.uint32, copy=False), offsets_of(np.array([len(r) for r in rows], dtype=np.int64)))


def _shingle_normalised(texts: Sequence[str]) -> Shingles:
    """Sets of one batch. Row number and hash share a word, so one sort orders every row at once."""
    padded = [text if len(text) >= NGRAM or not text else _pad(text) for text in texts]
    codes = np.frombuffer(unicodedata.normalize("NFD", "\n".join(padded)).encode("utf-32-le"), dtype=np.uint32)
    breaks = codes == ord("\n")
    row_of = np.cumsum(breaks).astype(np.uint64)
    windows = max(len(codes) - NGRAM + 1, 0)
    grams = np.zeros(windows, dtype=np.uint64)
    crossing = np.zeros(windows, dtype=np.bool_)
    for place in range(NGRAM):
        grams <<= _CODE_BITS
        grams |= codes[place : place + windows]
        crossing |= breaks[place : place + windows]
    whole = ~crossing
    words = (row_of[:windows][whole] << np.uint64(32)) | (_mix(grams[whole]) >> np.uint64(32))
    words.sort()
    fresh = np.ones(len(words), dtype=np.bool_)
    np.not_equal(words[1:], words[:-1], out=fresh[1:])
    words = words[fresh]
    sizes = np.bincount((words >> np.uint64(32)).astype(np.int64), minlength=len(texts))
    return Shingles(words.astype(np.uint32), offsets_of(sizes.astype(np.int64)))


def _pad(text: str) -> str:
    """A text of fewer than three letters, filled up to one n-gram."""
    letters = unicodedata.normalize("NFD", text)
    return letters.ljust(NGRAM, "\0")


def shingle_normalised(texts: Sequence[str]) -> Shingles:
    """Hashed n-gram sets of texts that are normalised already."""
    return concatenate(
        [_shingle_normalised(texts[first : first + BATCH]) for first in range(0, max(len(texts), 1), BATCH)]
    )


def shingle(texts: Sequence[str]) -> Shingles:
    """Hashed n-gram sets of the normalised texts; a shorter text is one shingle, an empty one has none."""
    return shingle_normalised(normalise_questions(texts))


def concatenate(parts: Sequence[Shingles]) -> Shingles:
    """The rows of all parts, in order."""
    if len(parts) == 1:
        return parts[0]
    hashes = [part.hashes for part in parts] or [np.zeros(0, dtype=np.uint32)]
    sizes = [part.sizes for part in parts] or [np.zeros(0, dtype=np.int64)]
    return Shingles(np.concatenate(hashes), offsets_of(np.concatenate(sizes)))


def jaccard(a: U32, b: U32) -> float:
    """Exact Jaccard similarity of two sorted sets; two empty sets are not similar."""
    if not len(a) or not len(b):
        return 0.0
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)
