"""Chooses, builds and searches the FAISS index of passage vectors.

By size: exact inner product while that is quick, a graph (HNSW) above, inverted lists with 8-bit codes
(IVF-SQ8) for the largest, both followed by an exact re-rank with the kept vectors. The recall against the
exact search is measured at build over real queries and written down; effort is raised until it is high
enough. Invariant: `search` returns exact cosines, whatever the index.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from serving.encoders import Vectors

# Measured with 384 dimensions on one core, 150 results: an exact search takes 1.1 ms over 20,000 vectors, 3.2 ms over
# 50,000 (embedding the question takes 16 to 20), about 33 ms over 200,000. On two cores HNSW builds 200,000 in 115 s,
# IVF-SQ8 in 6 s.
FLAT_MAX = 50_000
HNSW_MAX = 200_000
GOOD_RECALL = 0.95
EXACT_SUBSET_MAX = 10_000  # filtered vectors that are compared one by one: about 10 ms of gathering and multiplying
_OVERSAMPLE = 4  # candidates of an approximate index that are scored exactly, per result asked for

Kind = Literal["flat", "hnsw", "ivf-sq8"]


@dataclass(frozen=True)
class AnnFacts:
    """What was built and how well it finds what the exact search finds."""

    kind: Kind
    effort: int  # HNSW: efSearch; IVF: nprobe; flat: 0
    recall_at_10: float
    sampled_queries: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def choose_kind(n_vectors: int, flat_max: int = FLAT_MAX, hnsw_max: int = HNSW_MAX) -> Kind:
    """The simplest index that is quick enough at this size."""
    if n_vectors <= flat_max:
        return "flat"
    return "hnsw" if n_vectors <= hnsw_max else "ivf-sq8"


def _set_effort(index: Any, kind: Kind, effort: int) -> None:
    if kind == "hnsw":
        index.hnsw.efSearch = effort
    elif kind == "ivf-sq8":
        index.nprobe = effort


def build_ann(vectors: Vectors, queries: Vectors, kind: Kind | None = None) -> tuple[Any, AnnFacts]:
    """(FAISS index, facts). `vectors` float32 [n, dim] and `queries` float32 [m, dim], both of length 1."""
    n_vectors, dim = vectors.shape
    kind = kind or choose_kind(n_vectors)
    if kind == "flat":
        index: Any = faiss.IndexFlatIP(dim)
        index.add(vectors)
        return index, AnnFacts(kind, 0, 1.0, len(queries))
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 100
        top_effort = 512
    else:
        lists = max(16, int(4 * np.sqrt(n_vectors)))
        index = faiss.index_factory(dim, f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
        rows = np.random.default_rng(0).choice(n_vectors, min(n_vectors, lists * 64), replace=False)
        index.train(np.ascontiguousarray(vectors[np.sort(rows)]))
        top_effort = lists
    index.add(vectors)
    truth = exact_top(vectors, queries, 10)
    effort, recall = (64 if kind == "hnsw" else 8), 0.0
    while True:
        effort = min(effort, top_effort)
        _set_effort(index, kind, effort)
        recall = _recall(index, vectors, queries, truth)
        if recall >= GOOD_RECALL or effort >= top_effort:
            return index, AnnFacts(kind, effort, round(recall, 4), len(queries))
        effort *= 2


def exact_top(vectors: Vectors, queries: Vectors, k: int) -> NDArray[np.int64]:
    """int64 [m, k]: the rows nearest to each query, by exact inner product."""
    flat: Any = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(np.ascontiguousarray(vectors))
    _, ids = flat.search(np.ascontiguousarray(queries), min(k, len(vectors)))
    return cast(NDArray[np.int64], ids)


def _recall(index: Any, vectors: Vectors, queries: Vectors, truth: NDArray[np.int64]) -> float:
    if not len(queries):
        return 1.0
    found = [search_ann(index, vectors, query, truth.shape[1], exact=False)[0] for query in queries]
    hits = sum(len(set(ids.tolist()) & set(row.tolist())) for ids, row in zip(found, truth, strict=True))
    return hits / truth.size


def search_ann(
    index: Any,
    vectors: NDArray[np.float32],
    query: Vectors,
    k: int,
    *,
    exact: bool,
    only: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(row numbers, exact cosines) of at most `k` vectors, best first. `exact`: the index is a flat one.

    `only` (rising row numbers) restricts the search before anything is cut: a small set is compared row by row,
    in a large one FAISS skips the others; where lists or graph hold too few of them, all of `only` are compared.
    """
    query = np.ascontiguousarray(query.reshape(1, -1))
    if only is not None and len(only) <= max(EXACT_SUBSET_MAX, k):
        return _rescored(vectors, only, query, k)
    wanted = min(k if exact else k * _OVERSAMPLE, len(vectors) if only is None else len(only))
    if only is None:
        scores, ids = index.search(query, wanted)
    else:
        allowed = np.zeros(len(vectors), dtype=bool)
        allowed[only] = True
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        scores, ids = index.search(query, wanted, params=_parameters(index, selector))
    rows = cast(NDArray[np.int64], ids[0])
    known = rows >= 0
    rows = rows[known]
    if only is not None and len(rows) < min(k, len(only)):
        return _rescored(vectors, only, query, k)
    if exact:
        return rows, cast(NDArray[np.float32], scores[0][known])
    return _rescored(vectors, rows, query, k)


def _rescored(
    vectors: NDArray[np.float32], rows: NDArray[np.int64], query: Vectors, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    cosines = np.asarray(vectors[rows] @ query.reshape(-1), dtype=np.float32)
    order = np.argsort(-cosines, kind="stable")[:k]
    return rows[order], cosines[order]


def _parameters(index: Any, selector: Any) -> Any:
    """FAISS's search parameters with `selector` and the effort that the index has."""
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
    return faiss.SearchParameters(sel=selector)


def write_ann(index: Any, path: Path) -> None:
    """Write in FAISS's own format."""
    faiss.write_index(index, str(path))


def read_ann(path: Path, facts: AnnFacts) -> Any:
    """Read an index whose bytes were checked before; sets the effort that was measured."""
    index: Any = faiss.read_index(str(path))
    _set_effort(index, facts.kind, facts.effort)
    return index
