"""A question in, ranked tools out: embed, gather candidates, rerank. Knows no HTTP, blocks, is thread-safe.

Reads one loaded index; keeps no state between questions. Invariant: items are ranked 1..n without gaps, their
scores fall, and every one of them is a tool of the index with labelled scores (dense, lexical, rerank).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lake.schemas.records import RetrievedItem
from lake.text import detect_lang
from serving import analysis
from serving.candidates import CandidateFinder, Candidates
from serving.encoders import Encoder
from serving.index_facets import Positions
from serving.index_files import ToolIndex
from serving.rerank import Reranker

# E5-type models see 512 tokens, about 600 characters of Korean; more would only cost time (the lexical side sees all).
EMBEDDED_CHARS = 600


@dataclass(frozen=True)
class Retrieval:
    """What was found, and how long each stage took (`embed`, `retrieve`, `rerank`; milliseconds)."""

    items: list[RetrievedItem]
    latency_ms: dict[str, float]
    lang: str
    index_version: str
    embedder: str


class Retriever:
    """Hybrid retrieval over one index. Raises `IndexUnusableError` where the index is another encoder's."""

    def __init__(
        self, index: ToolIndex, encoder: Encoder, reranker: Reranker, candidates_per_ranking: int = 50
    ) -> None:
        index.require_encoder(encoder)
        self.index = index
        self.encoder = encoder
        self.reranker = reranker
        self._finder = CandidateFinder(index, candidates_per_ranking)
        analysis.warm_up()
        self.search("준비 warm up")  # the first question of a process would pay for lazy loading

    def candidates(
        self,
        question: str,
        lang: str | None = None,
        *,
        only: Positions | None = None,
        vector: NDArray[np.float32] | None = None,
    ) -> tuple[Candidates, dict[str, float]]:
        """The whole pool with its scores and features, unranked, and the time of each stage. `only` (not empty):
        rising positions of the tools that may be found.
        """
        lang = lang or detect_lang(question)
        latency_ms: dict[str, float] = {}
        start = time.perf_counter()
        if vector is None:
            embedded = self.encoder.encode_queries([question[:EMBEDDED_CHARS]])[0]
            latency_ms["embed"] = (time.perf_counter() - start) * 1000
            start = time.perf_counter()
        else:
            embedded = vector
        pool = self._finder.find(question, embedded, lang, only)
        latency_ms["retrieve"] = (time.perf_counter() - start) * 1000
        return pool, latency_ms

    def search(
        self,
        question: str,
        top_k: int = 3,
        lang: str | None = None,
        *,
        categories: frozenset[str] = frozenset(),
        tags: frozenset[str] = frozenset(),
        vector: NDArray[np.float32] | None = None,
    ) -> Retrieval:
        """At most `top_k` tools, best first. `lang` (ko, en) is found from the question where it is not given.

        Only tools in one of `categories` and with all of `tags` (case and Unicode form do not matter; empty: no
        filter); none match: no items. `vector`: the embedding of the question's first `EMBEDDED_CHARS`, float32
        [dim], where the caller has it; `latency_ms` then has no `embed`.
        """
        start = time.perf_counter()
        only = self.index.facets.select(categories, tags)
        filter_ms = (time.perf_counter() - start) * 1000
        if only is not None and len(only) == 0:
            lang = lang or detect_lang(question)
            return Retrieval([], {"retrieve": filter_ms, "rerank": 0.0}, lang, self.index.version, self.encoder.name)
        pool, latency_ms = self.candidates(question, lang, only=only, vector=vector)
        latency_ms["retrieve"] += filter_ms
        start = time.perf_counter()
        final = self.reranker.rank(pool)
        dense, lexical = pool.scores.dense, pool.scores.lexical
        # Equal scores fall back to the cosine, then to the order of the catalogue: the same on every machine.
        order = np.lexsort((np.array(pool.positions), -dense, -final))[:top_k]
        items = [
            RetrievedItem(
                rank=rank,
                score=round(float(final[i]), 6),
                id=pool.tools[i].id,
                name=pool.tools[i].name,
                url=pool.tools[i].url,
                description=pool.tools[i].text(pool.lang),
                chunk_text=pool.passages[i].text,
                tags=list(pool.tools[i].tags),
                category=pool.tools[i].category,
                scores={
                    "dense": round(float(dense[i]), 6),
                    "lexical": round(float(lexical[i]), 6),
                    "rerank": round(float(final[i]), 6),
                },
            )
            for rank, i in enumerate(order.tolist(), start=1)
        ]
        latency_ms["rerank"] = (time.perf_counter() - start) * 1000
        return Retrieval(items, latency_ms, pool.lang, self.index.version, self.encoder.name)
