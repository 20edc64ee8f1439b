"""How two sides spread through a cluster that touches decided questions of both. Pure.

Questions are decided from the decided ones outwards, wave by wave. Each sees the sides of all its decided
neighbours, so no two of opposite sides are ever near each other; one that sees both is dropped and passes nothing on.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lake.rules.shingles import I64, offsets_of, spans

UNDECIDED, TRAIN, HOLDOUT, BOTH = -1, 0, 1, 2

Flags = npt.NDArray[np.bool_]


def spread(size: int, left: I64, right: I64, beside_train: Flags, beside_holdout: Flags) -> npt.NDArray[np.int8]:
    """Side of each of `size` nodes with the near pairs `left`, `right`; `beside_*`: near a decided question.

    UNDECIDED remains where nothing reaches. In a wave hold-out goes first; the order of nodes does not matter.
    """
    order = np.argsort(np.concatenate([left, right]), kind="stable")
    other = np.concatenate([right, left])[order]
    counts = np.bincount(np.concatenate([left, right]), minlength=size).astype(np.int64)
    starts = offsets_of(counts)[:-1]

    def reach(seen: Flags, rows: I64) -> I64:
        """Mark the neighbours of these rows; gives those."""
        around = np.unique(other[spans(starts[rows], counts[rows])])
        seen[around] = True
        return around

    sides = np.full(size, UNDECIDED, dtype=np.int8)
    by_train, by_holdout = beside_train.copy(), beside_holdout.copy()
    front = np.flatnonzero(by_train | by_holdout)
    while len(front):
        both = by_train[front] & by_holdout[front]
        sides[front[both]] = BOTH
        held = front[~both & by_holdout[front]]
        sides[held] = HOLDOUT
        reached = [reach(by_holdout, held)]
        train = front[~both & by_train[front]]
        torn = by_holdout[train]
        sides[train[torn]] = BOTH
        sides[train[~torn]] = TRAIN
        reached.append(reach(by_train, train[~torn]))
        front = np.unique(np.concatenate(reached))
        front = front[sides[front] == UNDECIDED]
    return sides
