"""The book of the split: for each question that was ever decided its side and cluster, as columns. Pure.

It holds no text. `lake/split_store.py` keeps it on disk, `lake/rules/split.py` reads and grows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lake.rules.keys import NONE, Keys
from lake.rules.shingles import I64, U64, Shingles, concatenate, from_rows

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]

# why a question may not enter a dataset; the place in this tuple is its code
REASONS = ("", "empty_question", "near_test", "bridges_split", "synthetic_holdout")
EMPTY, NEAR_TEST, BRIDGES, SYNTHETIC = 1, 2, 3, 4


def cluster_name(number: Any) -> str:
    """`c-` and 16 hex digits."""
    return f"c-{int(number):016x}"


def _none() -> tuple[Shingles, I64]:
    return from_rows([]), np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class SplitBook:
    """Columns in ascending order of the keys. `blocked` (place in REASONS): why a decided question may not enter, as
    of `threshold` and `tests` (digest of the test questions). `load` gives the sets when they are first needed, in any
    order, and at which place each row's set is; `added` are the rows that are not on disk yet.
    """

    keys: Keys = field(default_factory=lambda: NONE)
    holdout: Flags = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    clusters: U64 = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    blocked: Codes = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))
    threshold: float = 0.0
    tests: str = ""
    load: Callable[[], tuple[Shingles, I64]] = _none
    added: Keys = field(default_factory=lambda: NONE)
    added_shingles: Shingles = field(default_factory=lambda: from_rows([]))

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _loaded(self) -> tuple[Shingles, I64]:
        return self.load()

    @property
    def sets(self) -> Shingles:
        """Sets of all rows, as they were stored; the set of row i is at `places[i]`."""
        return self._loaded[0]

    @property
    def places(self) -> I64:
        return self._loaded[1]

    @property
    def shingles(self) -> Shingles:
        """Sets of all rows, in their order."""
        return self.sets.take(self.places)

    def grown(
        self, keys: Keys, holdout: Flags, clusters: U64, shingles: Shingles, *, old_clusters: U64, blocked: Codes,
        threshold: float, tests: str,
    ) -> SplitBook:  # fmt: skip
        """The book with new rows (ascending, none of them in it), new names of old clusters and new reasons."""
        order = np.argsort(np.concatenate([self.keys, keys]), kind="stable")

        def load() -> tuple[Shingles, I64]:
            places = np.concatenate([self.places, len(self) + np.arange(len(keys))])
            return concatenate([self.sets, shingles]), places[order]

        added = np.concatenate([self.added, keys])
        fresh = np.argsort(added, kind="stable")
        return SplitBook(
            np.concatenate([self.keys, keys])[order],
            np.concatenate([self.holdout, holdout])[order],
            np.concatenate([old_clusters, clusters])[order],
            np.concatenate([blocked, np.zeros(len(keys), dtype=np.uint8)])[order],
            threshold,
            tests,
            load,
            added[fresh],
            concatenate([self.added_shingles, shingles]).take(fresh),
        )
