"""Blocking work off the event loop, and whether a client has gone."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest
from starlette.types import Message

from gateway.disconnect import has_gone
from gateway.threads import Threads


def test_results_and_errors_come_back_and_jobs_run_beside_each_other() -> None:
    async def run() -> None:
        meet = threading.Barrier(2)
        threads = Threads(2, "test")

        def work(n: int) -> tuple[int, str]:
            meet.wait(10)  # both are in a thread at once, or this breaks
            return n, threading.current_thread().name

        found = await asyncio.gather(threads.run(partial(work, 1)), threads.run(partial(work, 2)))
        assert [n for n, _ in found] == [1, 2] and {name for _, name in found} == {"test-0", "test-1"}
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        assert await threads.run(lambda: "still works") == "still works"
        threads.close()
        threads.close()
        with pytest.raises(RuntimeError, match="closed"):
            await threads.run(lambda: 1)

    asyncio.run(run())


def test_a_cancelled_caller_does_not_stop_the_thread() -> None:
    async def run() -> None:
        entered, leave = threading.Event(), threading.Event()
        threads = Threads(1, "test")

        def work() -> None:
            entered.set()
            leave.wait(10)

        waiting = asyncio.create_task(threads.run(work))
        behind = asyncio.create_task(threads.run(lambda: pytest.fail("its caller was gone")))
        await asyncio.to_thread(entered.wait, 10)
        for task in (waiting, behind):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        leave.set()
        assert await threads.run(lambda: 5) == 5
        threads.close()

    asyncio.run(run())


def test_a_client_has_gone_or_is_still_there() -> None:
    async def run() -> None:
        never = asyncio.Event()

        async def waits() -> Message:
            await never.wait()
            raise AssertionError

        async def gone() -> Message:
            return {"type": "http.disconnect"}

        async def more() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        assert [has_gone(receive) for receive in (waits, gone, more)] == [False, True, False]
        assert not never._waiters  # what was asked and would have waited has left nothing behind

    asyncio.run(run())
