"""The gateway as it is, but for retrieval and, where asked, for the journal.

Run by the bench: `python -m tests.bench.gateway.subject PORT JOURNAL` with MULLE_* and LLM_* in the environment.
App, middleware, authentication, limits, prompt, LLM client and logs are the real ones, and with JOURNAL `sync` or
`group` the journal too, on the disk of MULLE_DATA_DIR. The retriever returns tools of the sample catalogue without
embedding or searching. `off` puts a journal in its place that forgets: it exists here only, no setting can choose it.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gateway import parts as gateway_parts
from gateway import worker
from gateway.__main__ import open_socket
from lake.journal.pending import FramePosition, JournalCounters, Pending
from lake.schemas.records import RetrievedItem
from lake.text import detect_lang
from serving.encoders import Vectors
from serving.retriever import Retrieval
from tests.gateway.kit import sample_tools

TRIPLES = 64  # different answers of the retriever, in turn


class FixedRetriever:
    """Hands out three tools of the sample catalogue, another three each time."""

    def __init__(self) -> None:
        self.index = SimpleNamespace(version="bench")
        self.encoder = SimpleNamespace(name="bench")
        tools = sample_tools()
        found = [
            [
                RetrievedItem(
                    rank=rank, score=round(0.9 / rank, 6), id=tool.id, name=tool.name, url=tool.url,
                    description=tool.text("ko"), chunk_text=tool.text("ko"), tags=list(tool.tags),
                    category=tool.category, scores={"dense": 0.87, "lexical": 0.41, "rerank": round(0.9 / rank, 6)},
                )
                for rank, tool in enumerate(tools[first : first + 3], start=1)
            ]
            for first in range(0, 3 * TRIPLES, 3)
        ]  # fmt: skip
        self._next = itertools.cycle(found)

    def search(self, question: str, top_k: int = 3, lang: str | None = None, **_: Any) -> Retrieval:
        """At once."""
        latency_ms = {"retrieve": 0.0, "rerank": 0.0}
        return Retrieval(next(self._next), latency_ms, lang or detect_lang(question), "bench", "bench")


class NoEmbedder:
    """In the place of `QuestionEmbedder`: at once, one vector for every question."""

    def __init__(self, *_: Any) -> None:
        self._vector = np.zeros(1, np.float32)

    async def embed(self, retriever: FixedRetriever, question: str) -> Vectors:
        return self._vector

    def close(self) -> None:
        return


class ForgetfulJournal:
    """The interface of `JournalWriter`, without a byte written: what a record costs is the difference."""

    def __init__(self, root: Path, **_: Any) -> None:
        self.directory = root
        self.healthy = True
        self.counters = JournalCounters(0, 0, 0, 0, 0, 0)
        self.unsynced_s = self.window_s = 0.0

    def submit(self, *_: Any, **__: Any) -> Pending:
        future: asyncio.Future[FramePosition] = asyncio.get_running_loop().create_future()
        future.set_result(FramePosition("00000001.mjl", 0, 1))
        return Pending(b"", 1, future, None)

    async def probe(self) -> bool:
        return True

    async def aclose(self) -> None:
        return


def main() -> int:
    """One worker, without its parent: it stands on one core anyway."""
    port, journal = sys.argv[1:3]
    patched: Any = gateway_parts
    patched._loader = lambda *_: FixedRetriever
    patched.QuestionEmbedder = NoEmbedder
    if journal == "off":
        patched.JournalWriter = ForgetfulJournal
    listener = open_socket("127.0.0.1", int(port))
    ours, parents = socket.socketpair()
    with parents:
        fds = ["--listen-fd", str(listener.detach()), "--channel-fd", str(ours.detach())]
        return worker.main(["--slot", "0", "--starts", "1", *fds])


if __name__ == "__main__":
    sys.exit(main())
