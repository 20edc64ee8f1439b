"""The certificate that a dataset's sides do not touch: made when it is written, made again by `verify`. Pure.

It holds, for each pair of train, holdout and test, how many clusters and questions they share (must be none)
and their highest Jaccard similarity (must lie below the near-duplicate threshold). Up to `PROOF_CELLS`
pairs of rows all are compared (`method` exact); beyond that MinHash-LSH proposes pairs, and `missed_at_threshold`
states how probable it is that a pair just at the threshold is not among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from lake.rules.cluster import best_cross
from lake.rules.near import PROOF_CELLS, NearIndex, thorough
from lake.rules.shingles import SHINGLING, Shingles, concatenate


@dataclass(frozen=True)
class SideRows:
    """One side: ids and question keys by row, cluster ids (none for test questions), shingles."""

    ids: Sequence[str]
    keys: Sequence[str]
    shingles: Shingles
    clusters: Sequence[str] = field(default_factory=list[str])


def touching(rows: Shingles, others: Shingles, threshold: float) -> npt.NDArray[np.bool_]:
    """Which of the rows a certificate would find near one of the others: to be dropped before it is made."""
    index = NearIndex(concatenate([rows, others]), threshold, PROOF_CELLS)
    return index.touching(np.arange(len(rows)), len(rows) + np.arange(len(others)))


def certify(sides: dict[str, SideRows], threshold: float) -> dict[str, Any]:
    """The certificate; `disjoint` is its verdict. Same rows in the same order, same certificate."""
    pairs: dict[str, Any] = {}
    for one, other in combinations(sides, 2):
        a, b = sides[one], sides[other]
        best = best_cross(a.shingles, b.shingles, threshold)
        pairs[f"{one}-{other}"] = {
            "max_jaccard": round(best.similarity, 6),
            "closest": [
                a.ids[best.left] if best.left is not None else None,
                b.ids[best.right] if best.right is not None else None,
            ],
            "method": best.method,
            "missed_at_threshold": 0.0 if best.method == "exact" else round(thorough(threshold).miss(threshold), 6),
            "shared_questions": len(set(a.keys) & set(b.keys)),
            "shared_clusters": len(set(a.clusters) & set(b.clusters)),
            "disjoint": best.similarity < threshold
            and not set(a.keys) & set(b.keys)
            and not set(a.clusters) & set(b.clusters),
        }
    return {
        "threshold": threshold,
        "shingling": SHINGLING,
        "sides": {name: {"rows": len(side.ids), "clusters": len(set(side.clusters))} for name, side in sides.items()},
        "pairs": pairs,
        "disjoint": all(pair["disjoint"] for pair in pairs.values()),
    }
