"""The work behind `lake/rules/split.py`: sides and clusters of new questions beside a book of decided ones. Pure.

Rows are numbered: new questions first, then the book's, then the test questions. Invariant: no two questions of
opposite sides that both may enter are near each other, as far as `near.py` sees (small inputs: exactly).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lake.rules.book import BRIDGES, NEAR_TEST, SYNTHETIC, Codes, Flags, SplitBook
from lake.rules.buckets import Effort
from lake.rules.graph import join
from lake.rules.keys import Keys, heads, to_hex
from lake.rules.near import EXACT_CELLS, PROOF_CELLS, NearIndex, quick
from lake.rules.shingles import I64, U64, concatenate, shingle_normalised
from lake.rules.spread import BOTH, HOLDOUT, UNDECIDED, spread

MIN_CLUSTERS_FOR_HOLDOUT = 5  # below that a hold-out of one cluster would cost too much of the training data


def draw(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on seed and key only."""
    digest = hashlib.sha256(f"split:{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class Decided:
    """Of the new questions, in the order of their keys; `book_clusters`: the names that old clusters have now."""

    reason: Codes
    holdout: Flags
    clusters: U64
    book_clusters: U64


class Sides:
    """One build's comparison. Nothing is compared, and the book's sets are not read, where nothing is new."""

    def __init__(
        self, book: SplitBook, texts: Sequence[str], tests: Sequence[str], threshold: float, exact_cells: int
    ) -> None:
        self.book = book
        self.new = shingle_normalised(texts)
        self._test_texts = tests
        self._threshold = threshold
        self._exact_cells = exact_cells
        self._proof = exact_cells * (PROOF_CELLS // EXACT_CELLS)
        self._used = False
        self._fresh = np.arange(len(texts))

    @cached_property
    def _index(self) -> NearIndex:
        self._used = True
        parts = [self.new, self.book.sets, shingle_normalised(self._test_texts)]
        return NearIndex(concatenate(parts), self._threshold, self._exact_cells)

    @cached_property
    def _old(self) -> I64:
        """Rows of the book's questions, in the order of the book."""
        return len(self.new) + self.book.places

    @cached_property
    def _tests(self) -> I64:
        return len(self.new) + len(self.book.sets) + np.arange(len(self._test_texts))

    @property
    def is_exact(self) -> bool:
        """Whether every pair that matters was compared."""
        return not self._used or self._index.exact

    @property
    def effort(self) -> Effort:
        return self._index.effort if self._used else Effort()

    def blocked(self, tests: str) -> Codes:
        """Why questions of the book may not enter; looked at again where test questions or threshold changed.

        A lower threshold than in earlier builds can bring decided questions of both sides near each other: the
        hold-out keeps its row, the training side loses it.
        """
        book = self.book
        if not len(book) or (book.tests, book.threshold) == (tests, self._threshold):
            return book.blocked
        out = np.zeros(len(book), dtype=np.uint8)
        train = np.flatnonzero(~book.holdout)
        out[train[self._index.touching(self._old[train], self._old[book.holdout])]] = BRIDGES
        out[self._index.touching(self._old, self._tests, self._proof)] = NEAR_TEST
        return out

    def decide(self, keys: Keys, asked: Flags, seed: int, share: float) -> Decided:
        """Sides and clusters of the new questions (`keys` ascending; `asked`: a person asked it)."""
        size, book = len(keys), self.book
        reason, holdout = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=np.bool_)
        if not size:
            return Decided(reason, holdout, np.zeros(0, dtype=np.uint64), book.clusters)
        index = self._index
        reason[index.touching(self._fresh, self._tests, self._proof)] = NEAR_TEST
        rows = np.flatnonzero(reason == 0)
        labels = np.arange(size)  # a cluster is known by its smallest member
        labels[rows] = rows[index.labels(rows)]
        links = self._links(rows)
        beside = np.zeros((2, size), dtype=np.bool_)  # near a decided question of train, of hold-out
        for a, b in links:
            beside[book.holdout[b].astype(np.int64), a] = True

        touched = np.zeros((2, size), dtype=np.bool_)  # by label
        for side in range(2):
            touched[side, labels[rows[beside[side, rows]]]] = True
        by_train, by_holdout = touched[:, labels[rows]]
        holdout[rows] = by_holdout
        free, contested = rows[~by_train & ~by_holdout], rows[by_train & by_holdout]
        if len(contested):
            left, right, _ = index.pairs(contested)
            a, b = np.searchsorted(contested, left), np.searchsorted(contested, right)
            sides = spread(len(contested), a, b, beside[0, contested], beside[1, contested])
            reason[contested[sides == BOTH]] = BRIDGES
            holdout[contested] = sides == HOLDOUT
            alone = contested[sides == UNDECIDED]  # cut off by what was dropped: clusters of their own
            labels[alone] = alone[index.labels(alone)]
            free = np.sort(np.concatenate([free, alone]))
        holdout[free] = self._drawn(labels[free], asked[free], keys, seed, share)
        reason[holdout & ~asked & (reason == 0)] = SYNTHETIC
        self._guard(reason, holdout)
        live = np.flatnonzero(reason == 0)
        clusters, book_clusters = self._names(live, keys, labels, holdout, links)
        return Decided(reason, holdout, clusters, book_clusters)

    def _guard(self, reason: Codes, holdout: Flags) -> None:
        """Drop what clustering has missed: new questions of one side that are near a question of the other."""
        index, book = self._index, self.book
        live = np.flatnonzero(reason == 0)
        train, held = live[~holdout[live]], live[holdout[live]]
        reason[held[index.touching(held, self._old[~book.holdout])]] = BRIDGES
        held = held[reason[held] == 0]
        reason[train[index.touching(train, np.concatenate([held, self._old[book.holdout]]))]] = BRIDGES

    def _links(self, rows: I64) -> list[tuple[I64, I64]]:
        """Near pairs of a new question and one of the book (as its place there)."""
        book_row = np.zeros(len(self.new) + len(self.book.sets), dtype=np.int64)
        book_row[self._old] = np.arange(len(self.book))
        found: list[tuple[I64, I64]] = []
        for a, b in self._index.cross(rows, self._old, quick(self._threshold)):
            left, right, _ = self._index.near(a, b)
            found.append((left, book_row[right]))
        return found

    def _drawn(self, labels: I64, asked: Flags, keys: Keys, seed: int, share: float) -> Flags:
        """Which rows of clusters that touch nothing decided are held out."""
        roots = np.unique(labels[asked])  # clusters that no person's question is in are trained on
        draws = np.array([draw(seed, key) for key in to_hex(keys[roots])])
        held = draws < share
        if share > 0 and not held.any() and not self.book.holdout.any() and len(roots) >= MIN_CLUSTERS_FOR_HOLDOUT:
            held[np.argmin(draws)] = True
        if len(roots) and held.all() and (self.book.holdout.all() or not len(self.book)):
            held[np.argmax(draws)] = False  # a handful of clusters, all of them drawn: one is trained on
        return np.isin(labels, roots[held])

    def _names(
        self, live: I64, keys: Keys, labels: I64, holdout: Flags, links: list[tuple[I64, I64]]
    ) -> tuple[U64, U64]:
        """Names of the new rows' clusters and of the book's: a cluster that grows keeps its smallest old name."""
        book = self.book
        old, of_old = np.unique(book.clusters, return_inverse=True)
        _, first, of_new = np.unique(labels[live] * 2 + holdout[live], return_index=True, return_inverse=True)
        group = np.full(len(keys), -1, dtype=np.int64)
        group[live] = len(old) + of_new
        nodes = np.arange(len(old) + len(first))
        for a, b in links:
            same = (group[a] >= 0) & (holdout[a] == book.holdout[b])
            nodes = join(nodes, group[a[same]], of_old[b[same]])
        names = np.concatenate([old, _free_names(heads(keys[live[first]]), old)])[nodes]
        clusters = np.zeros(len(keys), dtype=np.uint64)
        clusters[live] = names[group[live]]
        return clusters, names[of_old]


def _free_names(wanted: U64, taken: U64) -> U64:
    """The wanted names, others where one is taken: its question was erased from the book and came back."""
    out = wanted.copy()
    used = set(taken.tolist())
    twice = np.ones(len(out), dtype=np.bool_)
    twice[np.unique(out, return_index=True)[1]] = False
    for place in np.flatnonzero(twice | np.isin(out, taken)).tolist():
        number = int(out[place])
        while number in used or number in out:
            number = int.from_bytes(hashlib.sha256(number.to_bytes(8, "big")).digest()[:8], "big")
        out[place] = number
        used.add(number)
    return out
