"""The retriever in service: loaded at the start, replaced when `index/current` points to another version.

Reads the index folder. Invariant: a new index is loaded and checked whole before one request sees it; one
that can't be used leaves the old one in service and its reason in readiness. A request keeps the retriever it
started with.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import structlog

from lake.errors import MulleError
from serving.retriever import Retriever

log = structlog.get_logger("gateway.index")


class RetrieverHolder:
    """`load` opens the index that is current now; it blocks and runs in a thread."""

    def __init__(self, load: Callable[[], Retriever], index_dir: Path, poll_s: float = 2.0) -> None:
        self._load = load
        self._link = index_dir / "current"
        self._poll_s = poll_s
        self._seen: str | None = None
        self._watcher: asyncio.Task[None] | None = None
        self.current: Retriever | None = None
        self.reason = "the index is being loaded"
        self.reloads = 0

    def load_now(self) -> None:
        """Load what is current; the reason of a failure is kept in `reason`. Blocks; safe to repeat."""
        self._seen = self._target()
        try:
            self.current = self._load()
            self.reason = ""
        except MulleError as error:
            self.reason = str(error)
            log.warning("index_refused", reason=self.reason, kept=self.current is not None)

    async def start(self) -> None:
        """Load, then watch for a new version."""
        if self.current is None:
            await asyncio.to_thread(self.load_now)
        self._watcher = asyncio.create_task(self._watch(), name="index-watch")

    async def aclose(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher

    def _target(self) -> str | None:
        try:
            return str(self._link.readlink())
        except OSError:
            return None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            if self._target() == self._seen:
                continue
            try:
                await asyncio.to_thread(self.load_now)
            except Exception as error:  # the watcher must outlive whatever a folder can hold
                log.exception("index_watch_failed")
                self.reason = f"the new index could not be loaded ({type(error).__name__})"
            else:
                self.reloads += 1
                if self.current is not None:
                    log.info("index_in_service", version=self.current.index.version)
