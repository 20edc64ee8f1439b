"""Connected components of millions of nodes, in numpy. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from lake.rules.shingles import I64


def join(labels: I64, left: I64, right: I64) -> I64:
    """New labels after these edges: every node has the smallest node of its component.

    `labels` must be such labels already (`np.arange(n)` for no edges). Each round hooks the larger root of an edge
    below the smaller one and then shortens all paths (Shiloach and Vishkin 1982): logarithmic rounds in practice.
    """
    roots = np.unique(labels[np.concatenate([left, right])])
    if not len(roots):
        return labels
    a, b = np.searchsorted(roots, labels[left]), np.searchsorted(roots, labels[right])
    parent = np.arange(len(roots))
    while True:
        low, high = np.minimum(parent[a], parent[b]), np.maximum(parent[a], parent[b])
        apart = low != high
        if not apart.any():
            break
        a, b = low[apart], high[apart]
        np.minimum.at(parent, b, a)
        while not np.array_equal(shorter := parent[parent], parent):
            parent = shorter
    moved = np.arange(int(roots[-1]) + 1)
    moved[roots] = roots[parent]
    out = labels.copy()
    below = labels <= roots[-1]
    out[below] = moved[labels[below]]
    return out


def components(size: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `size` nodes the smallest node of its connected component."""
    pairs = np.array(list(edges), dtype=np.int64).reshape(-1, 2)
    return join(np.arange(size), pairs[:, 0], pairs[:, 1]).tolist()
