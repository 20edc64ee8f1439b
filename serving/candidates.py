"""Gathers the candidates of a question from three rankings and computes every score that ranks them.

Dense (FAISS over passages), BM25 over words, BM25 over character n-grams: the union of their best, each then
scored exactly on all of them. Invariant: a candidate's scores do not depend on which ranking found it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lake.schemas.rows import Tool
from serving import analysis
from serving.chunks import KINDS, Chunk
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


class CandidateFinder:
    """Finds candidates in one index; thread-safe."""

    def __init__(self, index: ToolIndex, per_ranking: int = 50) -> None:
        self._index = index
        self._per_ranking = per_ranking

    def find(self, question: str, vector: NDArray[np.float32], lang: str, only: Positions | None = None) -> Candidates:
        """The pool for `question`, whose embedding is `vector`, float32 [dim]. `only`: rising positions of the
        tools that may be found; every ranking is restricted to them before its best are taken.
        """
        index, k = self._index, self._per_ranking
        terms, grams = analysis.words(question), analysis.ngrams(question)
        rows, _ = index.dense(vector, min(k * _CHUNKS_PER_TOOL, len(index.chunks)), only)
        found = dict.fromkeys(index.owners_of(rows).tolist())
        for bm25, asked in ((index.words, terms), (index.grams, grams)):
            found.update(dict.fromkeys(bm25.best(asked, k, only)))
        positions = list(found)
        at = np.array(positions, dtype=np.int64)
        pool, passages = self._score(at, vector, lang)
        tools = [index.tools[position] for position in positions]
        scores = PoolScores(
            **pool,
            words=index.words.scores_at(terms, at).astype(np.float64),
            grams=index.grams.scores_at(grams, at).astype(np.float64),
            words_ideal=index.words.ideal(terms),
            grams_ideal=index.grams.ideal(grams),
        )
        tag_terms = [index.facets.tag_terms(position) for position in positions]
        category_terms = [index.facets.category_terms(position) for position in positions]
        features = feature_matrix(
            question, frozenset(terms), lang, tools, tag_terms, category_terms, scores
        )  # fmt: skip
        return Candidates(question, lang, positions, tools, passages, scores, features)

    def _score(
        self, positions: Positions, vector: NDArray[np.float32], lang: str
    ) -> tuple[dict[str, NDArray[np.float64]], list[Chunk]]:
        """Exact cosines by kind of passage, NaN where a tool has none, and each tool's best description."""
        index = self._index
        kinds = {name: np.full(len(positions), np.nan) for name in ("dense_own", "dense_other", "dense_names")}
        passages: list[Chunk] = []
        rows = index.passages_of(positions)
        cosines = np.asarray(index.vectors[rows], dtype=np.float32) @ vector
        sizes = (index.chunk_start[positions + 1] - index.chunk_start[positions]).tolist()
        named = [KINDS[kind] for kind in index.chunk_kind[rows].tolist()]
        cursor = 0
        for number, size in enumerate(sizes):
            best: tuple[bool, float, int] | None = None
            for place in range(cursor, cursor + size):
                cosine, kind, row = float(cosines[place]), named[place], int(rows[place])
                name = "dense_names" if kind == "names" else "dense_own" if kind == lang else "dense_other"
                kinds[name][number] = np.nanmax([kinds[name][number], cosine])
                rank = (kind == lang, cosine, row) if kind != "names" else (False, -2.0, row)
                best = rank if best is None or rank > best else best
            cursor += size
            assert best is not None  # chunk_tool gives every tool a passage
            passages.append(index.chunks[best[2]])
        means = index.category_means[index.mean_of[index.facets.category_of[positions]]]
        kinds["dense_category"] = np.asarray(means @ vector, dtype=np.float64)
        return kinds, passages
