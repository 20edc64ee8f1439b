"""Gateways with a planted bug (one worker, no parent), which the harnesses of this folder have to catch.

`python -m tests.faults.buggy_gateway <bug>`, started by tests in place of the gateway:
early: its journal acknowledges at once and writes half a second later; forgets: a client that goes away leaves no
second half; deaf: it never learns that the reader of a stream has gone; heedless: it answers 200 although the journal
failed; endless: calls of the LLM have no time limit; leaks: each request leaves five megabytes behind; rude: a refused
request gets a 500. `fixed` is no bug: retrieval is the bench's, without encoder and index, as in all that measure load.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
from collections.abc import Callable
from typing import Any

from gateway import parts as gateway_parts
from gateway import worker
from gateway.__main__ import open_socket
from gateway.errors import OverloadedError
from gateway.llm_call import LLMCall
from gateway.search import SearchService
from gateway.stream import SearchStream
from lake.errors import JournalError
from lake.journal.pending import FramePosition, Pending
from lake.journal.writer import JournalWriter
from lake.schemas.records import FrameKind
from tests.bench.gateway.subject import FixedRetriever, NoEmbedder


class EarlyJournal(JournalWriter):
    """Acknowledges what it has not written."""

    _numbers = itertools.count(1)

    def submit(self, kind: FrameKind, record: Any, *, hold_s: float = 0.0, follows: Pending | None = None) -> Pending:
        loop = asyncio.get_running_loop()
        loop.call_later(0.5, super().submit, kind, record)
        return _acknowledged(loop, next(self._numbers))


class HeedlessJournal(JournalWriter):
    """Takes a failed append for a good one."""

    def submit(self, kind: FrameKind, record: Any, *, hold_s: float = 0.0, follows: Pending | None = None) -> Pending:
        loop = asyncio.get_running_loop()
        try:
            real = super().submit(kind, record, hold_s=hold_s)
        except JournalError:
            return _acknowledged(loop, 1)
        shown: asyncio.Future[FramePosition] = loop.create_future()

        def pass_on(done: Any) -> None:
            position = FramePosition("00000001.mjl", 0, real.seq) if done.exception() else done.result()
            if not shown.done():
                shown.set_result(position)

        real.future.add_done_callback(pass_on)
        return Pending(b"", real.seq, shown, loop)


def _acknowledged(loop: asyncio.AbstractEventLoop, seq: int) -> Pending:
    future: asyncio.Future[FramePosition] = loop.create_future()
    future.set_result(FramePosition("00000001.mjl", 0, seq))
    return Pending(b"", seq, future, loop)


def _early() -> None:
    patched: Any = gateway_parts
    patched.JournalWriter = EarlyJournal


def _heedless() -> None:
    patched: Any = gateway_parts
    patched.JournalWriter = HeedlessJournal


def _forgets() -> None:
    patched: Any = SearchService
    finish = patched._finish

    async def forgetful(self: SearchService, turn: Any, request_seq: int, *, gone: bool) -> None:
        if not gone:
            await finish(self, turn, request_seq, gone=gone)

    patched._finish = forgetful


def _deaf() -> None:
    patched: Any = SearchStream
    patched.abandon = lambda self: None


def _endless() -> None:
    patched: Any = LLMCall
    chat, stream = patched.chat, patched.stream
    patched.chat = lambda self, *args, **kwargs: chat(self, *args, **{**kwargs, "deadline_s": 3600.0})
    patched.stream = lambda self, *args, **kwargs: stream(self, *args, **{**kwargs, "deadline_s": 3600.0})


def _fixed() -> None:
    patched: Any = gateway_parts
    patched._loader = lambda *_: FixedRetriever
    patched.QuestionEmbedder = NoEmbedder


def _leaks() -> None:
    _fixed()
    patched: Any = SearchService
    finish = patched._finish
    kept: list[bytes] = []

    async def leaky(self: SearchService, turn: Any, request_seq: int, *, gone: bool) -> None:
        kept.append(b"x" * 5_000_000)
        await finish(self, turn, request_seq, gone=gone)

    patched._finish = leaky


def _rude() -> None:
    _fixed()
    patched: Any = OverloadedError
    patched.status = 500


BUGS: dict[str, Callable[[], None]] = {
    "early": _early, "forgets": _forgets, "deaf": _deaf, "heedless": _heedless, "endless": _endless,
    "leaks": _leaks, "rude": _rude, "fixed": _fixed,
}  # fmt: skip


def main() -> int:
    BUGS[sys.argv[1]]()
    listener = open_socket("127.0.0.1", 0)
    ours, parents = socket.socketpair()
    print(f"gateway: listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    with parents:
        fds = ["--listen-fd", str(listener.detach()), "--channel-fd", str(ours.detach())]
        return worker.main(["--slot", "0", "--starts", "1", *fds])


if __name__ == "__main__":
    sys.exit(main())
