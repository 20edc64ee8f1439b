"""Chooses, builds and searches the FAISS index of passage vectors.

Exact inner product while that is quick. Above, inverted lists with 8-bit codes (IVF-SQ8) and, where they miss the
goal, a graph (HNSW), both followed by an exact re-rank with the kept vectors, are tried in turn: effort is raised
until the recall, measured against the exact search over questions, is high enough or the search would cost too much;
what is built is the first that reaches `GOOD_RECALL`, and the exact search where none does. Invariant: `search_ann`
returns the cosines of the stored vectors, whatever the index.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import faiss as _faiss
import numpy as np
from numpy.typing import NDArray

from serving.encoders import Vectors
from serving.mapped import float_blocks

faiss: Any = _faiss  # its stubs lack what SWIG adds

# Measured with 384 dimensions on one core, 150 results: an exact search takes 1.1 ms over 20,000 vectors, 3.2 ms over
# 50,000 (embedding the question takes 16 to 20), about 33 ms over 200,000. On two cores HNSW builds 200,000 in 115 s,
# IVF-SQ8 in 6 s and answers faster: so it is tried first.
FLAT_MAX = 50_000
GOOD_RECALL = 0.95
EXACT_SUBSET_MAX = 10_000  # filtered vectors that are compared one by one: about 10 ms of gathering and multiplying
_MAX_EF = 512  # HNSW: beyond, it visits a tenth of a million vectors and is no quicker than the lists
_MAX_PROBED = 1 / 4  # IVF: share of the lists; of 2.7 million vectors 680,000 codes, a fourth of an exact search
HNSW_MAX = 500_000  # above, a graph takes most of an hour to build on two cores
_TRAIN_PER_LIST = 40  # FAISS warns below 39

Kind = Literal["flat", "hnsw", "ivf-sq8"]


@dataclass(frozen=True)
class AnnFacts:
    """What was built and how well it finds what the exact search finds."""

    kind: Kind
    effort: int  # HNSW: efSearch; IVF: nprobe; flat: 0
    recall_at_10: float
    sampled_queries: int
    goal: float = GOOD_RECALL
    tried: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # kind, effort, recall, seconds

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def kinds_for(n_vectors: int) -> tuple[Kind, ...]:
    """The kinds to try at this size, in order; the last one is exact."""
    if n_vectors <= FLAT_MAX:
        return ("flat",)
    return ("ivf-sq8", "hnsw", "flat") if n_vectors <= HNSW_MAX else ("ivf-sq8", "flat")


def stored_dtype(n_vectors: int) -> str:
    """How vectors are kept: half precision above `FLAT_MAX`, where it halves 4 GB and moves a cosine by < 0.001."""
    return "float32" if n_vectors <= FLAT_MAX else "float16"


def _set_effort(index: Any, kind: Kind, effort: int) -> None:
    if kind == "hnsw":
        index.hnsw.efSearch = effort
    elif kind == "ivf-sq8":
        index.nprobe = effort


def build_ann(vectors: NDArray[Any], queries: Vectors, kind: Kind | None = None) -> tuple[Any, AnnFacts]:
    """(FAISS index, facts). `vectors` float32 or float16 [n, dim], may be mapped; `queries` float32 [m, dim]; both of
    length 1. `kind`: that one, whatever its recall.
    """
    kinds = (kind,) if kind else kinds_for(len(vectors))
    if kinds[0] == "flat":
        return _flat(vectors), AnnFacts("flat", 0, 1.0, len(queries))
    truth = exact_top(vectors, queries, 10)
    tried: list[dict[str, Any]] = []
    for one in kinds:
        start = time.perf_counter()
        if one == "flat":
            return _flat(vectors), AnnFacts("flat", 0, 1.0, len(queries), tried=tried)
        index = _approximate(vectors, one)
        steps = _raise_effort(index, one, vectors, queries, truth)
        effort, recall = steps[-1]
        tried.append(
            {
                "kind": one,
                "recall_by_effort": {str(at): reached for at, reached in steps},
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
        if recall >= GOOD_RECALL or one == kinds[-1]:
            return index, AnnFacts(one, effort, recall, len(queries), tried=tried)
        del index
    raise AssertionError("the last kind is returned")


def _flat(vectors: NDArray[Any]) -> Any:
    dim = vectors.shape[1]
    index = faiss.IndexFlatIP(dim) if vectors.dtype == np.float32 else faiss.index_factory(dim, "SQfp16", _IP)
    _fill(index, vectors)
    return index


_IP = faiss.METRIC_INNER_PRODUCT


def _approximate(vectors: NDArray[Any], kind: Kind) -> Any:
    n_vectors, dim = vectors.shape
    if kind == "hnsw":
        index = faiss.index_factory(dim, "HNSW32,SQ8", _IP)
        index.hnsw.efConstruction = 100
        sample = 100_000
    else:
        lists = max(16, int(1.25 * np.sqrt(n_vectors)))
        index = faiss.index_factory(dim, f"IVF{lists},SQ8", _IP)
        sample = lists * _TRAIN_PER_LIST
    rows = np.sort(np.random.default_rng(0).choice(n_vectors, min(n_vectors, sample), replace=False))
    index.train(np.ascontiguousarray(vectors[rows], dtype=np.float32))
    _fill(index, vectors)
    return index


def _fill(index: Any, vectors: NDArray[Any]) -> None:
    for _, block in float_blocks(vectors):
        index.add(block)


def _raise_effort(
    index: Any, kind: Kind, vectors: NDArray[Any], queries: Vectors, truth: NDArray[np.int64]
) -> list[tuple[int, float]]:
    """(effort, recall) of each step up to the goal or the most that is acceptable."""
    effort = 64 if kind == "hnsw" else 8
    most = _MAX_EF if kind == "hnsw" else max(8, int(index.nlist * _MAX_PROBED))
    steps: list[tuple[int, float]] = []
    while True:
        effort = min(effort, most)
        _set_effort(index, kind, effort)
        steps.append((effort, round(_recall(index, vectors, queries, truth), 4)))
        if steps[-1][1] >= GOOD_RECALL or effort >= most:
            return steps
        effort *= 2


def exact_top(vectors: NDArray[Any], queries: Vectors, k: int) -> NDArray[np.int64]:
    """int64 [m, k]: the rows nearest to each query, by exact inner product, block by block."""
    ids = np.zeros((len(queries), 0), dtype=np.int64)
    scores = np.zeros((len(queries), 0), dtype=np.float32)
    if not len(queries):
        return ids
    for start, block in float_blocks(vectors):
        found_scores, found = faiss.knn(np.ascontiguousarray(queries), block, min(k, len(block)), metric=_IP)
        ids, scores = np.hstack([ids, found + start]), np.hstack([scores, found_scores])
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        ids, scores = np.take_along_axis(ids, best, 1), np.take_along_axis(scores, best, 1)
    return ids


def _recall(index: Any, vectors: NDArray[Any], queries: Vectors, truth: NDArray[np.int64]) -> float:
    if not len(queries):
        return 1.0
    found = [search_ann(index, vectors, query, truth.shape[1], exact=False)[0] for query in queries]
    hits = sum(len(set(ids.tolist()) & set(row.tolist())) for ids, row in zip(found, truth, strict=True))
    return hits / truth.size


def search_ann(
    index: Any,
    vectors: NDArray[Any],
    query: Vectors,
    k: int,
    *,
    exact: bool,
    only: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(row numbers, cosines) of at most `k` vectors, best first. `exact`: the index is a flat one.

    `only` (rising row numbers) restricts the search before anything is cut: a small set is compared row by row,
    in a large one FAISS skips the others; where lists or graph hold too few of them, all of `only` are compared.
    """
    query = np.ascontiguousarray(query.reshape(1, -1))
    if only is None:
        scores, ids = index.search(query, min(k if exact else _candidates(k), len(vectors)))
        if exact:  # it finds as many as there are: nothing to check or to copy
            return ids[0], scores[0]
        rows = ids[0]
        return _rescored(vectors, rows if rows[-1] >= 0 else rows[rows >= 0], query, k)
    if len(only) <= max(EXACT_SUBSET_MAX, k):
        return _rescored(vectors, only, query, k)
    allowed = np.zeros(len(vectors), dtype=bool)
    allowed[only] = True
    selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    wanted = min(k if exact else _candidates(k), len(only))
    scores, ids = index.search(query, wanted, params=_parameters(index, selector))
    rows = cast(NDArray[np.int64], ids[0])
    known = rows >= 0
    rows = rows[known]
    if len(rows) < min(k, len(only)):
        return _rescored(vectors, only, query, k)
    if exact:
        return rows, cast(NDArray[np.float32], scores[0][known])
    return _rescored(vectors, rows, query, k)


def _candidates(k: int) -> int:
    """How many of an approximate index are scored exactly. What 8-bit codes misplace lies a few ranks off: more of
    them costs time and finds nothing (docs/decisions/0008).
    """
    return k + 40


def _rescored(
    vectors: NDArray[Any], rows: NDArray[np.int64], query: Vectors, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    cosines = np.asarray(vectors[rows], dtype=np.float32) @ query.reshape(-1)
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
    """Read an index whose bytes were checked before; sets the effort that was measured. Inverted lists stay on disk,
    mapped, and are shared by the processes that read them.
    """
    index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP if facts.kind == "ivf-sq8" else 0)
    if facts.kind == "ivf-sq8":
        lists = faiss.downcast_InvertedLists(index.invlists)
        if isinstance(lists, faiss.OnDiskInvertedLists):
            lists.prefetch_nthread = 0  # else every search starts threads that touch pages
    _set_effort(index, facts.kind, facts.effort)
    return index
