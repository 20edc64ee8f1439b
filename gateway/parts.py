"""Everything a running gateway is made of, opened in one place and closed in the right order.

Reads the models, the index and the env file; opens this worker's journal. Invariant: at the end every
accepted request is in the journal before the journal is closed, and clients are closed last.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from ulid import ULID

from gateway.access_settings import AccessSettings
from gateway.auth import AccessControl
from gateway.backend_holder import BackendHolder
from gateway.embedder import QuestionEmbedder
from gateway.keys import KeyStore, check_exposure, keys_path
from gateway.metrics import GatewayMetrics
from gateway.metrics_parts import watch_parts
from gateway.rate_limits import RateLimiter
from gateway.recorder import Recorder
from gateway.resilience_settings import ResilienceSettings
from gateway.retriever_holder import RetrieverHolder
from gateway.search import SearchService
from gateway.settings import GatewaySettings
from gateway.tracing import Tracing
from gateway.tracing_settings import TracingSettings
from gateway.turn_log import TurnLog
from gateway.turns import TurnObserver
from lake.errors import ModelMissingError
from lake.files import sha256_file
from lake.journal.disk import Disk
from lake.journal.private import PrivateJournal, sweep
from lake.journal.writer import JournalWriter
from lake.settings import LakeSettings
from serving.acks import AckWriter
from serving.backends import Backend
from serving.client import LLMClient
from serving.encoders import Encoder, load_encoder
from serving.index import load_index
from serving.prompting import PromptSettings, make_prompt_builder
from serving.rerank import Reranker, load_reranker
from serving.retrieval_settings import RetrievalSettings
from serving.retriever import Retriever
from serving.retry import RetryBudget
from serving.settings import ServingSettings

_SWEEP_EVERY_S = 3600.0
log = structlog.get_logger("gateway.parts")


@dataclass(frozen=True)
class Config:
    """All settings of one gateway, read once by the caller. `llm` counts only where `gateway.env_file` is
    unset.
    """

    gateway: GatewaySettings
    lake: LakeSettings
    serving: ServingSettings
    retrieval: RetrievalSettings
    prompt: PromptSettings
    llm: Mapping[str, str]
    access: AccessSettings = field(default_factory=AccessSettings)
    resilience: ResilienceSettings = field(default_factory=ResilienceSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    workers: int = 1  # that share the rate limits


class Parts:
    """The opened parts of one worker."""

    def __init__(self, config: Config, disk: Disk | None = None) -> None:
        """Blocks while models load (about 3 s with the bundled ones). Raises `SetupError` or `JournalError`.

        `disk` replaces the journal's system calls where a test makes them fail.
        """
        settings = config.gateway
        self.settings = settings
        self.lake = config.lake
        self.started_unix = int(time.time())
        self.metrics = GatewayMetrics()
        self.keys = KeyStore(keys_path(config.access, config.lake), config.access.keys_poll_s)
        check_exposure(settings.host, self.keys.usable)
        self.access = AccessControl(config.access, self.keys, RateLimiter(config.workers))
        self._drain_began: float | None = None
        self.retrievers = RetrieverHolder(_loader(config), config.lake.index_dir, settings.index_poll_s)
        self.retrievers.load_now()
        prompts = make_prompt_builder(config.prompt, config.lake.models_dir, config.serving.base_name)
        # False where a model's tokenizer is not here and counts are upper estimates.
        self.exact_tokens = bool(getattr(getattr(prompts.count_tokens, "__self__", None), "exact", False))
        if not settings.chat_template.is_file():
            raise ModelMissingError(f"There is no chat template at {settings.chat_template}: set MULLE_CHAT_TEMPLATE.")
        template_sha256 = sha256_file(settings.chat_template)
        self.journal = JournalWriter(
            config.lake.journal_dir,
            role="gateway",
            mode=settings.journal_mode,
            group_window_ms=settings.journal_group_window_ms,
            disk=disk,
        )
        self.journal.on_sync = self.metrics.observe_sync
        self.private = PrivateJournal(
            config.lake.private_journal_dir,
            mode=settings.journal_mode,
            group_window_ms=settings.journal_group_window_ms,
            disk=disk,
        )
        self.recorder = Recorder(self.journal, self.private, settings.journal_timeout_s)
        self._tasks: list[asyncio.Task[None]] = []
        worker = f"gateway-{os.getpid()}-{ULID()}"
        ack = AckWriter(config.lake.run_dir / "ack", worker) if settings.env_file is not None else None
        budget = RetryBudget()  # one for all backends: a switch must not refill it

        def make_client(backend: Backend) -> LLMClient:
            return LLMClient(
                backend,
                budget=budget,
                connect_timeout_s=settings.llm_connect_timeout_s,
                max_connections=settings.llm_max_connections,
                max_response_bytes=settings.llm_max_response_bytes,
            )

        self.backends = BackendHolder(
            make_client,
            env_file=settings.env_file,
            values=config.llm,
            ack=ack,
            poll_s=settings.backend_poll_s,
            models_dir=config.lake.models_dir,
            resilience=config.resilience,
        )
        self.embedder = QuestionEmbedder(config.retrieval.embed_batch, self.metrics.embed_batch.observe)
        observers: list[TurnObserver] = [self.metrics, TurnLog()]
        self.tracing: Tracing | None = None
        if config.tracing.otlp_endpoint:
            self.tracing = Tracing(config.tracing)
            observers.append(self.tracing)
        self.search = SearchService(
            settings, self.retrievers, self.embedder, prompts, self.recorder, self.backends,
            observers, template_sha256, config.lake.unmasked_types,
        )  # fmt: skip

        watch_parts(self.metrics.registry, self.journal, self.backends, self.retrievers, self.search)

    async def start(self) -> None:
        """Start what watches: keys, backend and index."""
        await self.keys.start()
        await self.retrievers.start()
        await self.backends.start()
        self._tasks = [
            asyncio.create_task(self._sweep(), name="private-sweep"),
            asyncio.create_task(self._turn_loop(), name="loop-lag"),
        ]

    async def _turn_loop(self) -> None:
        """What `mulle_event_loop_lag_seconds` is measured by."""
        while True:
            self.metrics.loop_turned()
            await asyncio.sleep(0.1)

    async def _sweep(self) -> None:
        """Once an hour, take away what was kept of opted-out requests for long enough."""
        root, days = self.lake.private_journal_dir, self.lake.opt_out_days
        while True:
            try:
                removed = await asyncio.to_thread(sweep, root, days, datetime.now(UTC))
                if removed:
                    log.info("private_records_removed", folders=removed)
            except OSError as error:  # tried again next time
                log.error("private_sweep_failed", reason=str(error))
            await asyncio.sleep(_SWEEP_EVERY_S)

    def begin_drain(self) -> None:
        """Readiness fails from now on, and the time for open requests runs. Safe to repeat, and in a signal handler."""
        if self._drain_began is None:
            self._drain_began = time.monotonic()

    async def aclose(self) -> None:
        """Let requests end, then close the journal, then the connections.

        A request that is still open after `drain_timeout_s` since the first signal has its first half in the journal;
        the ingest makes an "aborted" row of it.
        """
        self.begin_drain()
        began = self._drain_began or time.monotonic()
        await self.search.drain(max(0.5, began + self.settings.drain_timeout_s - time.monotonic()))
        await self.keys.aclose()
        await self.retrievers.aclose()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError):  # a disk that hangs must not keep the process
            await asyncio.wait_for(asyncio.gather(self.journal.aclose(), self.private.aclose()), 10.0)
        await self.backends.aclose()
        self.search.close()
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
        self.embedder.close()

    async def not_ready(self) -> dict[str, str]:
        """What keeps this worker from answering, by part; empty where it is ready."""
        reasons: dict[str, str] = {}
        if self._drain_began is not None:
            reasons["shutdown"] = "the gateway is shutting down"
        if self.retrievers.current is None:
            reasons["index"] = self.retrievers.reason
        if not self.backends.can_answer:
            reasons["backend"] = self.backends.reason
        if not self.journal.healthy:
            try:
                healthy = await asyncio.wait_for(self.journal.probe(), 0.8)
            except TimeoutError:
                healthy = False
            if not healthy:
                reasons["journal"] = "records can't be made durable (log_unavailable): check the disk"
        return reasons


def _loader(config: Config) -> Callable[[], Retriever]:
    """Opens the current index; encoder and reranker are loaded once and kept."""
    kept: list[tuple[Encoder, Reranker]] = []

    def load() -> Retriever:
        settings = config.retrieval
        if not kept:
            encoder = load_encoder(config.serving.embedder, allow_hub=settings.allow_hub)
            reranker = load_reranker(
                settings.reranker,
                settings.reranker_file,
                cross_encoder_candidates=settings.cross_encoder_candidates,
                allow_hub=settings.allow_hub,
            )
            kept.append((encoder, reranker))
        encoder, reranker = kept[0]
        return Retriever(load_index(config.lake.index_dir), encoder, reranker, settings.candidates)

    return load
