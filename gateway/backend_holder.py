"""Which LLM servers new requests go to, and how that changes while requests are under way.

Watches the configuration (`BackendSource`: every `poll_s`, at least twice a second where the champion is followed, and
at once when asked, for SIGHUP); writes this worker's acknowledgement (serving/acks.py). Invariant: a request keeps the
backends it started with; a replaced client is closed only after its last request has ended; a configuration that can't
be used leaves the old backends in service (but a quarantined adapter), the refusal in the acknowledgement, and is tried
again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from gateway.backend_source import BackendSource, Configured
from gateway.llm_call import LLMCall, Target
from gateway.resilience_settings import ResilienceSettings
from serving.acks import AckWriter
from serving.backends import Backend
from serving.breaker import CircuitBreaker
from serving.client import LLMClient

_CHAMPION_POLL_S = 0.5
_RETRY_S = 1.0  # between two tries of a configuration that could not be used
log = structlog.get_logger("gateway.backend")


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
        models_dir: Path = Path("models"),
        resilience: ResilienceSettings | None = None,
    ) -> None:
        self._make_client = make_client
        self._source = BackendSource(make_client, env_file, values or {}, models_dir)
        self._ack = ack
        self._acked: tuple[object, ...] = ()
        self._poll_s = poll_s
        self._resilience = resilience or ResilienceSettings()
        self._primary: Target | None = None
        self._fallback: Target | None = None
        self._old: set[Target] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._generation = 0
        self._loaded_at = 0.0
        self._retry = False
        self.reason = "no LLM server is configured"
        self.fallback_reason = ""
        self.switches = 0

    @property
    def backend(self) -> Backend | None:
        """The backend of new requests."""
        return self._primary.backend if self._primary is not None else None

    @property
    def fallback(self) -> Backend | None:
        """Who is asked where `backend` fails."""
        return self._fallback.backend if self._fallback is not None else None

    @property
    def can_answer(self) -> bool:
        """Whether there is anyone to ask."""
        return self._primary is not None or self._fallback is not None

    @property
    def draining(self) -> int:
        """Requests that still use a replaced backend."""
        return sum(target.users for target in self._old)

    def states(self) -> list[dict[str, Any]]:
        """Each backend in service with its circuit: {role, profile, api_base, model, adapter, generation,
        follows_champion, state (closed, open, half_open), failures (in a row), opened (times), retry_in_s}.
        """
        return [
            {
                "role": "fallback" if target.is_fallback else "primary",
                **target.backend.public(),
                "state": target.breaker.state,
                "failures": target.breaker.failures,
                "opened": target.breaker.opened,
                "retry_in_s": round(target.breaker.retry_in_s, 1),
            }
            for target in self._targets()
        ]

    async def start(self) -> None:
        """Read the configuration once, then watch it."""
        self._loop = asyncio.get_running_loop()
        await self._load()
        self._watcher = asyncio.create_task(self._watch(), name="backend-watch")

    def request_reload(self) -> None:
        """Read the configuration now, changed or not. Safe to call from a signal handler or a thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._wake.set)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[LLMCall | None]:
        """The backends of one request, kept open until the block ends; None where there is none."""
        targets = self._targets()
        if not targets:
            yield None
            return
        for target in targets:
            target.users += 1
        try:
            yield LLMCall(targets, self._resilience.primary_share, self._unknown_model)
        finally:
            for target in targets:
                target.users -= 1
                if target.retired and target.users == 0:
                    self._close_later(target)

    async def aclose(self) -> None:
        """Stop watching, withdraw the acknowledgement, close every client."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        if self._ack is not None:
            await asyncio.to_thread(self._ack.close)
        for target in [*self._old, *self._targets()]:
            await target.client.aclose()
        self._old.clear()
        self._primary = self._fallback = None
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _targets(self) -> list[Target]:
        return [target for target in (self._primary, self._fallback) if target is not None]

    def _unknown_model(self) -> None:
        """A server does not know the model it was asked for: it may offer the champion under a new name by now."""
        if self._source.follows_champion and time.monotonic() - self._loaded_at > _CHAMPION_POLL_S:
            self._wake.set()

    async def _watch(self) -> None:
        while True:
            pause_s = min(self._poll_s, _CHAMPION_POLL_S) if self._source.follows_champion else self._poll_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(pause_s, _RETRY_S) if self._retry else pause_s)
            asked = self._wake.is_set()
            self._wake.clear()
            again = self._retry and time.monotonic() - self._loaded_at >= _RETRY_S
            try:
                if asked or again or self._source.changed():
                    await self._load()
            except Exception as error:
                # The watcher must outlive whatever a file can hold; readiness and the acknowledgement show the reason.
                log.exception("backend_watch_failed")
                self.reason = f"the configuration could not be applied ({type(error).__name__})"

    async def _load(self) -> None:
        found = await self._source.load()
        self._loaded_at = time.monotonic()
        problem = found.problem or found.fallback_problem
        if problem and problem not in (self.reason, self.fallback_reason):
            log.warning("backend_refused", reason=problem, kept=self._primary is not None)
        self._retry = bool(problem) and not found.lasting
        self.fallback_reason = found.fallback_problem
        self.reason = found.problem
        if found.primary is None:
            self._generation = max(self._generation, found.generation)
            await self._drop_if_quarantined()
            if self._primary is None and not found.lasting:
                self._install(found)  # the fallback alone: better than no answer
            await self._acknowledge(ok=False, reason=found.problem)
            return
        self._install(found)
        self._generation = found.generation
        await self._acknowledge(ok=True)

    async def _drop_if_quarantined(self) -> None:
        """An adapter that may not be served any more has no successor here: better no answer, or the fallback's."""
        current = self.backend
        if current is None or not current.follows_champion:
            return
        if await asyncio.to_thread(self._source.quarantined, current.adapter):
            log.warning("quarantined_adapter_dropped", adapter=current.adapter)
            self._primary = self._replace(self._primary, None, is_fallback=False)

    def _install(self, found: Configured) -> None:
        """From here on, new requests use what was found; a fallback that can't be settled now keeps its old place."""
        before = self._primary
        self._primary = self._replace(self._primary, found.primary, is_fallback=False)
        if before is not None and self._primary is not before:
            self.switches += 1
        if not (found.fallback is None and found.fallback_problem):
            self._fallback = self._replace(self._fallback, found.fallback, is_fallback=True)

    def _replace(self, old: Target | None, backend: Backend | None, *, is_fallback: bool) -> Target | None:
        """The target for `backend`: the old one where only the generation differs; else the old one is let go."""
        if old is not None and backend is not None and replace(old.backend, generation=backend.generation) == backend:
            old.backend = backend
            return old
        new: Target | None = None
        if backend is not None:
            breaker = CircuitBreaker(self._resilience.breaker_failures, self._resilience.breaker_open_s)
            new = Target(backend, self._make_client(backend), breaker, is_fallback)
            log.info("backend_in_service", role="fallback" if is_fallback else "primary", **backend.public())
        if old is not None:
            old.retired = True
            self._old.add(old)
            if old.users == 0:
                self._close_later(old)
        return new

    def _close_later(self, target: Target) -> None:
        self._old.discard(target)
        task = asyncio.create_task(target.client.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _acknowledge(self, *, ok: bool, reason: str = "") -> None:
        if self._ack is None:
            return
        model = self._primary.backend.model if self._primary is not None else ""
        said = (self._generation, ok, reason, model)
        if said == self._acked:
            return
        try:
            await asyncio.to_thread(self._ack.write, self._generation, ok=ok, reason=reason, model=model)
            self._acked = said
        except OSError as error:
            log.error("ack_failed", reason=str(error))  # the switch then times out and restores the old file
