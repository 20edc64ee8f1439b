"""Which LLM server new requests go to, and how it changes while requests are under way.

Reads the env file (its time, inode and size every `poll_s`, and at once when asked, for SIGHUP) or a fixed
mapping; writes this worker's acknowledgement (serving/acks.py). Invariant: a request keeps the backend it
started with; a replaced client is closed only after its last request has ended; a file that can't be used
leaves the old backend in service and the refusal in the acknowledgement.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from gateway.llm_call import LLMCall
from lake.errors import MulleError
from serving.acks import AckWriter
from serving.backends import Backend, backend_from_env, check_resolved, detect_profile
from serving.client import LLMClient
from serving.envfile import read_env_file

_Stamp = tuple[int, int, int]
log = structlog.get_logger("gateway.backend")


@dataclass(eq=False, slots=True)
class _Live:
    """One backend with its client and the number of requests that use it."""

    backend: Backend
    client: LLMClient
    users: int = 0
    retired: bool = False


class BackendHolder:
    """For one event loop. `env_file` None: `values` are fixed for the life of the process."""

    def __init__(
        self,
        make_client: Callable[[Backend], LLMClient],
        *,
        env_file: Path | None = None,
        values: Mapping[str, str] | None = None,
        ack: AckWriter | None = None,
        poll_s: float = 0.5,
    ) -> None:
        self._make_client = make_client
        self._env_file = env_file
        self._values = dict(values or {})
        self._ack = ack
        self._poll_s = poll_s
        self._stamp: _Stamp | None = None
        self._live: _Live | None = None
        self._old: set[_Live] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._generation = 0
        self.reason = "no LLM server is configured"
        self.switches = 0

    @property
    def backend(self) -> Backend | None:
        """The backend of new requests."""
        return self._live.backend if self._live is not None else None

    @property
    def draining(self) -> int:
        """Requests that still use a replaced backend."""
        return sum(live.users for live in self._old)

    async def start(self) -> None:
        """Read the configuration once, then watch the file."""
        self._loop = asyncio.get_running_loop()
        await self._load()
        if self._env_file is not None:
            self._watcher = asyncio.create_task(self._watch(), name="backend-watch")

    def request_reload(self) -> None:
        """Read the file now, whether or not it changed. Safe to call from a signal handler or a thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[LLMCall | None]:
        """The current backend for one request, kept open until the block ends; None where there is none."""
        live = self._live
        if live is None:
            yield None
            return
        live.users += 1
        try:
            yield LLMCall(live.backend, live.client)
        finally:
            live.users -= 1
            if live.retired and live.users == 0:
                self._close_later(live)

    async def aclose(self) -> None:
        """Stop watching, withdraw the acknowledgement, close every client."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        if self._ack is not None:
            await asyncio.to_thread(self._ack.close)
        for live in [*self._old, *([self._live] if self._live else [])]:
            await live.client.aclose()
        self._old.clear()
        self._live = None
        await asyncio.gather(*self._closing, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._poll_s)
            asked = self._wake.is_set()
            self._wake.clear()
            try:
                if asked or _stamp(self._env_file) != self._stamp:
                    await self._load()
            except Exception as error:
                # The watcher must outlive whatever a file can hold; the reason is shown by readiness and the
                # ack.
                log.exception("backend_watch_failed")
                self.reason = f"the env file could not be applied ({type(error).__name__})"

    async def _load(self) -> None:
        self._stamp = _stamp(self._env_file)
        values: Mapping[str, str] = self._values
        try:
            if self._env_file is not None:
                values = await asyncio.to_thread(read_env_file, self._env_file)
            backend = backend_from_env(values)
            await asyncio.to_thread(check_resolved, backend)
            if not values.get("LLM_PROFILE"):
                found = await detect_profile(backend.api_base)
                backend = replace(backend, profile=found or backend.profile)
        except MulleError as error:
            self.reason = str(error)
            log.warning("backend_refused", reason=self.reason, kept=self._live is not None)
            self._generation = max(self._generation, _claimed_generation(values))
            await self._acknowledge(ok=False, reason=self.reason)
            return
        if self._live is None or backend != self._live.backend:
            self._install(backend)
        self._generation = backend.generation
        self.reason = ""
        await self._acknowledge(ok=True)

    def _install(self, backend: Backend) -> None:
        """From this statement on, new requests use `backend`."""
        previous, self._live = self._live, _Live(backend, self._make_client(backend))
        log.info("backend_in_service", **backend.public())
        if previous is not None:
            self.switches += 1
            previous.retired = True
            self._old.add(previous)
            if previous.users == 0:
                self._close_later(previous)

    def _close_later(self, live: _Live) -> None:
        self._old.discard(live)
        task = asyncio.create_task(live.client.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _acknowledge(self, *, ok: bool, reason: str = "") -> None:
        if self._ack is None:
            return
        model = self._live.backend.model if self._live is not None else ""
        try:
            await asyncio.to_thread(self._ack.write, self._generation, ok=ok, reason=reason, model=model)
        except OSError as error:
            log.error("ack_failed", reason=str(error))  # the switch then times out and restores the old file


def _stamp(path: Path | None) -> _Stamp | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _claimed_generation(values: Mapping[str, str]) -> int:
    """The generation that a refused file names, so that the switch learns of the refusal at once."""
    text = values.get("LLM_GENERATION", "0")
    return int(text) if text.isascii() and text.isdigit() else 0
