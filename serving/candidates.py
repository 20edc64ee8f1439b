"""Gathers the candidates of a question from three rankings and computes every score that ranks them.

Dense (FAISS over passages), BM25 over words, BM25 over character n-grams: the union of their best, each then
scored exactly on all of them. Invariant: a candidate's scores do not depend on which ranking found it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lake.schemas.rows import Tool
from serving import analysis
from serving.chunks import Chunk
from serving.features import PoolScores, feature_matrix
from serving.index_facets import Positions
from serving.index_files import ToolIndex

_CHUNKS_PER_TOOL = 3  # two languages and the names: so many passages may belong to one candidate


@dataclass(frozen=True)
class Candidates:
    """A pool of n candidates for one question; arrays are in the order of `positions`."""

    question: str
    lang: str
    positions: list[int]  # in the index's list of tools
    tools: list[Tool]
    passages: list[Chunk]  # the best description passage of each, in the question's language where there is one
    scores: PoolScores
    features: NDArray[np.float64]  # [n, len(FEATURE_NAMES)]


@lru_cache(maxsize=65536)
def _terms_of(text: str) -> frozenset[str]:
    return frozenset(analysis.words(text))


class CandidateFinder:
    """Finds candidates in one index; thread-safe."""

    def __init__(self, index: ToolIndex, per_ranking: int = 50) -> None:
        self._index = index
        self._per_ranking = per_ranking
        self._category_of, self._category_vectors = _category_vectors(index)

    def find(self, question: str, vector: NDArray[np.float32], lang: str, only: Positions | None = None) -> Candidates:
        """The pool for `question`, whose embedding is `vector`, float32 [dim]. `only`: rising positions of the
        tools that may be found; every ranking is restricted to them before its best are taken.
        """
        index, k = self._index, self._per_ranking
        terms = analysis.words(question)
        grams = analysis.ngrams(question)
        words_all = index.words.scores(terms)
        grams_all = index.grams.scores(grams)
        rows, _ = index.dense(vector, min(k * _CHUNKS_PER_TOOL, len(index.chunks)), only)
        found = dict.fromkeys(index.chunks[row].tool for row in rows.tolist())
        for scores in (words_all, grams_all):
            found.update(dict.fromkeys(_best(scores, k, only)))
        positions = list(found)
        pool, passages = self._score(positions, vector, lang)
        tools = [index.tools[position] for position in positions]
        scores = PoolScores(
            **pool,
            words=words_all[positions].astype(np.float64),
            grams=grams_all[positions].astype(np.float64),
            words_ideal=index.words.ideal(terms),
            grams_ideal=index.grams.ideal(grams),
        )
        tag_terms = [[_terms_of(tag) for tag in tool.tags] for tool in tools]
        category_terms = [_terms_of(tool.category) for tool in tools]
        features = feature_matrix(
            question, frozenset(terms), lang, tools, tag_terms, category_terms, scores
        )  # fmt: skip
        return Candidates(question, lang, positions, tools, passages, scores, features)

    def _score(
        self, positions: list[int], vector: NDArray[np.float32], lang: str
    ) -> tuple[dict[str, NDArray[np.float64]], list[Chunk]]:
        """Exact cosines by kind of passage, NaN where a tool has none, and each tool's best description."""
        index = self._index
        kinds = {name: np.full(len(positions), np.nan) for name in ("dense_own", "dense_other", "dense_names")}
        passages: list[Chunk] = []
        spans = [range(*index.chunk_start[position : position + 2].tolist()) for position in positions]
        flat = [row for span in spans for row in span]
        cosines = np.asarray(index.vectors[flat] @ vector, dtype=np.float64)
        cursor = 0
        for number, span in enumerate(spans):
            best: tuple[bool, float, int] | None = None
            for row in span:
                cosine = float(cosines[cursor])
                cursor += 1
                kind = index.chunks[row].kind
                name = "dense_names" if kind == "names" else "dense_own" if kind == lang else "dense_other"
                kinds[name][number] = np.nanmax([kinds[name][number], cosine])
                rank = (kind == lang, cosine, row) if kind != "names" else (False, -2.0, row)
                best = rank if best is None or rank > best else best
            assert best is not None  # chunk_tool gives every tool a passage
            passages.append(index.chunks[best[2]])
        category = self._category_vectors[self._category_of[positions]] @ vector
        kinds["dense_category"] = np.asarray(category, dtype=np.float64)
        return kinds, passages


def _best(scores: NDArray[np.float32], k: int, only: Positions | None = None) -> list[int]:
    """Positions (among `only`) of the `k` highest positive scores, best first."""
    mine = scores if only is None else scores[only]
    k = min(k, len(mine))
    top = np.argpartition(-mine, k - 1)[:k] if k < len(mine) else np.arange(len(mine))
    top = top[np.argsort(-mine[top], kind="stable")]
    top = top[mine[top] > 0]
    return [int(position) for position in (top if only is None else only[top])]


def _category_vectors(index: ToolIndex) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(category number of each tool, mean passage vector of each category, length 1)."""
    names = {name: number for number, name in enumerate(dict.fromkeys(tool.category for tool in index.tools))}
    category_of = np.array([names[tool.category] for tool in index.tools], dtype=np.int64)
    owners = np.repeat(category_of, np.diff(index.chunk_start))
    members: dict[int, list[int]] = defaultdict(list)
    for row, owner in enumerate(owners.tolist()):
        members[owner].append(row)
    means = np.zeros((len(names), index.manifest.dim), dtype=np.float32)
    for number, rows in members.items():
        mean = np.asarray(index.vectors[rows]).mean(axis=0)
        means[number] = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return category_of, means
