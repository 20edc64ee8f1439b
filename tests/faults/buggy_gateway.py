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
from typing import Any, ClassVar

from gateway import parts as gateway_parts
from gateway import worker
from gateway.__main__ import open_socket
from gateway.errors import OverloadedError
from gateway.llm_call import LLMCall
from gateway.search import SearchService
from gateway.stream import SearchStream
from lake.errors import JournalError
from lake.journal.writer import FramePosition, JournalWriter
from lake.schemas.records import FrameKind
from tests.bench.gateway.subject import FixedRetriever, NoEmbedder


class EarlyJournal(JournalWriter):
    """Acknowledges what it has not written."""

    _numbers = itertools.count(1)
    _later: ClassVar[set[asyncio.Task[None]]] = set()

    async def append(self, kind: FrameKind, payload: dict[str, Any]) -> FramePosition:
        async def write() -> None:
            await asyncio.sleep(0.5)
            await super(EarlyJournal, self).append(kind, payload)

        task = asyncio.create_task(write())
        self._later.add(task)
        task.add_done_callback(self._later.discard)
        return FramePosition("00000001.mjl", 0, next(self._numbers))


class HeedlessJournal(JournalWriter):
    """Takes a failed append for a good one."""

    async def append(self, kind: FrameKind, payload: dict[str, Any]) -> FramePosition:
        try:
            return await super().append(kind, payload)
        except JournalError:
            return FramePosition("00000001.mjl", 0, 1)


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
