"""Embeds questions for the event loop. Batching follows; until then one at a time in a thread."""

from __future__ import annotations

import asyncio

from serving.encoders import Encoder, Vectors


class QueryBatcher:
    """Embeds with `encoder`, at most `max_batch` questions a call."""

    def __init__(self, encoder: Encoder, max_batch: int = 32) -> None:
        self._encoder = encoder
        self.max_batch = max_batch

    async def embed(self, text: str) -> Vectors:
        """float32 [dim] of one question."""
        return (await asyncio.to_thread(self._encoder.encode_queries, [text]))[0]

    def close(self) -> None:
        """Nothing to end yet."""
