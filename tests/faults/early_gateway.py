"""Planted bug: a gateway (one worker, no parent) whose journal acknowledges at once and writes half a second later.

Started by tests in place of the gateway: `python -m tests.faults.early_gateway`. Every harness of a gateway's journal
has to catch it.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
from typing import Any, ClassVar

from gateway import parts as gateway_parts
from gateway import worker
from gateway.__main__ import open_socket
from lake.journal.writer import FramePosition, JournalWriter
from lake.schemas.records import FrameKind


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


def main() -> int:
    patched: Any = gateway_parts
    patched.JournalWriter = EarlyJournal
    listener = open_socket("127.0.0.1", 0)
    ours, parents = socket.socketpair()
    print(f"gateway: listening on http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    with parents:
        fds = ["--listen-fd", str(listener.detach()), "--channel-fd", str(ours.detach())]
        return worker.main(["--slot", "0", "--starts", "1", *fds])


if __name__ == "__main__":
    sys.exit(main())
