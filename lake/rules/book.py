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
from lake.rules.shingles import U64, Shingles, concatenate, from_rows

Flags = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]

# why a question may not enter a dataset; the place in this tuple is its code
REASONS = ("", "empty_question", "near_test", "bridges_split", "synthetic_holdout")
EMPTY, NEAR_TEST, BRIDGES, SYNTHETIC = 1, 2, 3, 4


def cluster_name(number: Any) -> str:
    """`c-` and 16 hex digits."""
    return f"c-{int(number):016x}"


def _none() -> Shingles:
    return from_rows([])


@dataclass(frozen=True, eq=False)
class SplitBook:
    """Columns in ascending order of the keys. `blocked` (place in REASONS): why a decided question may not enter, as
    of `threshold` and `tests` (digest of the test questions). `load` gives the sets of all rows when they are first
    needed; `added` are the rows that are not on disk yet.
    """

    keys: Keys = field(default_factory=lambda: NONE)
    holdout: Flags = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    clusters: U64 = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    blocked: Codes = field(default_factory=lambda: np.zeros(0, dtype=np.uint8))
    threshold: float = 0.0
    tests: str = ""
    load: Callable[[], Shingles] = _none
    added: Keys = field(default_factory=lambda: NONE)
    added_shingles: Shingles = field(default_factory=_none)

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def shingles(self) -> Shingles:
        """Sets of all rows, in their order."""
        return self.load()

    def grown(
        self, keys: Keys, holdout: Flags, clusters: U64, shingles: Shingles, *, old_clusters: U64, blocked: Codes,
        threshold: float, tests: str,
    ) -> SplitBook:  # fmt: skip
        """The book with new rows (ascending, none of them in it), new names of old clusters and new reasons."""
        order = np.argsort(np.concatenate([self.keys, keys]), kind="stable")

        def load() -> Shingles:
            return concatenate([self.shingles, shingles]).take(order)

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
