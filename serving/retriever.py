"""A question in, ranked tools out: embed, gather candidates, rerank. Knows no HTTP, blocks, is thread-safe.

Reads one loaded index; keeps no state between questions. Invariant: items are ranked 1..n without gaps, their
scores fall, and every one of them is a tool of the index with labelled scores (dense, lexical, rerank).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from lake.schemas.records import RetrievedItem
from lake.text import detect_lang
from serving import analysis
from serving.candidates import CandidateFinder, Candidates
from serving.encoders import Encoder
from serving.index_files import ToolIndex
from serving.rerank import Reranker

# E5-type models see 512 tokens, about 600 characters of Korean; more would only cost time (the lexical side sees all).
_EMBEDDED_CHARS = 600


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

    def candidates(self, question: str, lang: str | None = None) -> tuple[Candidates, dict[str, float]]:
        """The whole pool with its scores and features, unranked, and the time of each stage."""
        lang = lang or detect_lang(question)
        start = time.perf_counter()
        vector = self.encoder.encode_queries([question[:_EMBEDDED_CHARS]])[0]
        embedded = time.perf_counter()
        pool = self._finder.find(question, vector, lang)
        found = time.perf_counter()
        return pool, {"embed": (embedded - start) * 1000, "retrieve": (found - embedded) * 1000}

    def search(self, question: str, top_k: int = 3, lang: str | None = None) -> Retrieval:
        """At most `top_k` tools, best first. `lang` (ko, en) is found from the question where it is not
        given.
        """
        pool, latency_ms = self.candidates(question, lang)
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
