"""Embeds questions for an event loop, several in one call of the encoder where several wait.

One thread takes everything that gathered while its last call ran, up to `max_batch`: no timer, so that a lone question
waits for nothing. Invariants: each caller gets the vector of its own text; an encoder's error reaches every caller of
that batch and no other; a caller that is cancelled costs the others nothing; the queue is bounded.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from lake.errors import SetupError
from serving.encoders import Encoder, Vectors

QUEUE_MAX = 1024  # texts; the gateway's own limit on requests under way is below that


@dataclass(slots=True)
class _Wanted:
    text: str
    future: asyncio.Future[Vectors]


class QueryBatcher:
    """For one event loop. `max_batch`: texts in one call of the encoder."""

    def __init__(self, encoder: Encoder, max_batch: int = 32) -> None:
        self._encoder = encoder
        self._max_batch = max_batch
        self._queue: deque[_Wanted] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="embed", daemon=True)
        self._thread.start()
        self.batches = 0
        self.texts = 0
        self.on_batch: Callable[[int], None] = lambda _: None  # told how many texts each call has, on the thread

    async def embed(self, text: str) -> Vectors:
        """float32 [dim], L2-normalised. Raises what the encoder raises, or `SetupError` once closed or full."""
        self._loop = asyncio.get_running_loop()
        wanted = _Wanted(text, self._loop.create_future())
        with self._wake:
            if self._closing:
                raise SetupError("The embedder is closed: the gateway is shutting down.")
            if len(self._queue) >= QUEUE_MAX:
                raise SetupError(f"{QUEUE_MAX} questions wait for the embedder: send less.")
            self._queue.append(wanted)
            self._wake.notify()
        return await wanted.future

    def close(self) -> None:
        """Answer what waits, then end the thread. Does not block; safe to repeat."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def _run(self) -> None:
        while batch := self._next():
            texts = list(dict.fromkeys(wanted.text for wanted in batch))  # the same question twice is one text
            self.batches += 1
            self.texts += len(texts)
            try:
                self.on_batch(len(texts))  # in here: were the thread to end, every later question would wait for ever
                rows = dict(zip(texts, self._encoder.encode_queries(texts), strict=True))
            except Exception as error:
                self._settle(batch, error)
            else:
                self._settle(batch, rows)

    def _next(self) -> list[_Wanted]:
        """What waits now and is still wanted; empty at the end."""
        with self._wake:
            while True:
                while not self._queue:
                    if self._closing:
                        return []
                    self._wake.wait()
                batch: list[_Wanted] = []
                while self._queue and len(batch) < self._max_batch:
                    wanted = self._queue.popleft()
                    if not wanted.future.cancelled():
                        batch.append(wanted)
                if batch:
                    return batch

    def _settle(self, batch: list[_Wanted], result: dict[str, Vectors] | Exception) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_resolve, batch, result)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


def _resolve(batch: list[_Wanted], result: dict[str, Vectors] | Exception) -> None:
    for wanted in batch:
        if wanted.future.done():  # cancelled meanwhile
            continue
        if isinstance(result, Exception):
            wanted.future.set_exception(result)
        else:
            wanted.future.set_result(result[wanted.text])
