"""Embeds questions in batches, with the encoder of the index a request started with.

Invariant: a request's vector comes from the encoder of its own index, also while an index with another encoder takes
over; batches are of one encoder.
"""

from __future__ import annotations

from collections.abc import Callable

from serving.encoders import Encoder, Vectors
from serving.query_batcher import QueryBatcher
from serving.retriever import EMBEDDED_CHARS, Retriever

_KEPT = 2  # encoders: the one in service and the one that requests under way may still use


class QuestionEmbedder:
    """For one event loop."""

    def __init__(self, max_batch: int, on_batch: Callable[[int], None] = lambda _: None) -> None:
        """`on_batch` is told how many questions each call of an encoder has, on another thread."""
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._batchers: dict[int, tuple[Encoder, QueryBatcher]] = {}

    async def embed(self, retriever: Retriever, question: str) -> Vectors:
        """float32 [dim], L2-normalised; of the first `EMBEDDED_CHARS` characters."""
        return await self._batcher(retriever.encoder).embed(question[:EMBEDDED_CHARS])

    def _batcher(self, encoder: Encoder) -> QueryBatcher:
        kept = self._batchers.get(id(encoder))
        if kept is None:
            kept = self._batchers[id(encoder)] = (encoder, QueryBatcher(encoder, self._max_batch))
            kept[1].on_batch = self._on_batch
            while len(self._batchers) > _KEPT:
                self._batchers.pop(next(iter(self._batchers)))[1].close()
        return kept[1]

    def close(self) -> None:
        """End the threads. Safe to repeat."""
        for _, batcher in self._batchers.values():
            batcher.close()
        self._batchers.clear()
