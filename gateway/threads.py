"""Runs blocking work in threads for one event loop, with one hop there and one back.

`loop.run_in_executor` does the same through two futures that watch each other, a lock and a semaphore: at thousands of
short calls a second that is a tenth of the gateway's time (decision 0012). Invariant: every job that was started is
answered, with its result or its exception, unless its caller was cancelled.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_Job = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class Threads:
    """`count` threads, started at the first job."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = False
        self._closed = False

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """The result of `work`, or its exception. Jobs begin in their order. Raises `RuntimeError` once closed."""
        if self._closed:
            raise RuntimeError(f"the threads {self._name} are closed")
        if not self._started:
            self._started = True
            for number in range(self._count):
                threading.Thread(target=self._serve, name=f"{self._name}-{number}", daemon=True).start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Result] = loop.create_future()
        self._jobs.put((work, future, loop))
        return await future

    def close(self) -> None:
        """Let the threads end, each after its job. Safe to repeat."""
        if not self._closed:
            self._closed = True
            for _ in range(self._count):
                self._jobs.put(None)

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future, loop = job
            if future.cancelled():
                continue
            try:
                answer, failed = work(), False
            except BaseException as error:
                answer, failed = error, True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_answer, future, answer, failed)


def _answer(future: asyncio.Future[Any], answer: Any, failed: bool) -> None:
    if not future.done():
        (future.set_exception if failed else future.set_result)(answer)
