"""Prometheus metrics of one worker, in a registry of their own (several apps fit into one process).

Calls of the LLM carry the names, labels and buckets of OpenTelemetry's GenAI conventions (opentelemetry.io,
docs/specs/semconv/gen-ai/gen-ai-metrics), dots written as underscores; the rest is `mulle_*`. What other parts know
anyway is read from them at the scrape (metrics_parts.py); metrics_peers.py makes one exposition of all workers.
Invariant: every label has few values, whatever callers and LLM servers send. Costs below 30 µs a request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from gateway.turns import TurnRecord
from serving.backends import Backend

disable_created_metrics()  # a second series for each, which nobody reads

# Source of both: the GenAI conventions (see above).
DURATION_BUCKETS_S = tuple(round(0.01 * 2**step, 2) for step in range(14))  # 0.01 to 81.92
TOKEN_BUCKETS = tuple(4**step for step in range(14))  # 1 to 67,108,864
# From a rerank (below a millisecond) to an LLM on two cores (a minute).
STAGE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
SYNC_BUCKETS_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2, 5)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
_MAX_LABELS = 64  # sets of values that an LLM server can make us keep
_LLM_LABELS = (
    "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model",
    "server_address", "server_port",
)  # fmt: skip
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Peers(Protocol):
    """Makes one exposition of all workers; blocks."""

    def exposition(self) -> bytes: ...


class GatewayMetrics:
    """What is counted. A `TurnObserver`. Use it from the event loop, except `text` and `observe_sync`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.peers: Peers | None = None  # set by a worker that has some
        self._loop_turned = time.monotonic()
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=registry)

        requests = counter("mulle_search_requests", "Accepted requests by what became of them.", "operation", "outcome")
        self._requests = _children(requests)
        degraded = counter(
            "mulle_degraded", "Accepted requests not answered by the first LLM: fallback, or the error.", "reason"
        )
        self._degraded = _children(degraded)
        self.refused = counter("mulle_refused_requests", "Requests answered with a problem, by code.", "code")
        self._stages = _children(
            histogram("mulle_stage_seconds", "Time of each stage of a request.", STAGE_BUCKETS_S, "stage")
        )
        self._llm_retries = counter("mulle_llm_retries", "Repeated calls of the LLM.")
        self.feedback = counter("mulle_feedback", "Feedback records by thumb (up, down, none).", "thumb")
        self._http = _children(
            counter("mulle_http_responses", "HTTP responses.", "method", "route", "status"),
        )
        self._http_seconds = _children(
            histogram("mulle_http_seconds", "From request to the end of its response.", STAGE_BUCKETS_S, "route")
        )
        self.embed_batch = histogram("mulle_embed_batch_size", "Questions embedded at once.", BATCH_BUCKETS)
        self._sync = histogram("mulle_journal_sync_seconds", "Time of one fdatasync of the journal.", SYNC_BUCKETS_S)
        name = "gen_ai_client_operation_duration_seconds"
        self._llm_seconds = _children(
            histogram(name, "Calls of the LLM, retries included.", DURATION_BUCKETS_S, *_LLM_LABELS, "error_type")
        )
        name = "gen_ai_client_operation_time_to_first_chunk_seconds"
        self._first_chunk = _children(
            histogram(name, "From the call to the first piece of a stream.", DURATION_BUCKETS_S, *_LLM_LABELS)
        )
        self._tokens = _children(
            histogram(
                "gen_ai_client_token_usage", "Tokens of a call, as the LLM server reports them.", TOKEN_BUCKETS,
                *_LLM_LABELS, "gen_ai_token_type",
            )
        )  # fmt: skip
        self._llm_labels: dict[tuple[str, str, str], tuple[str, ...]] = {}
        self.starts = Gauge("mulle_worker_starts", "Starts of this worker.", registry=registry)
        lag = Gauge("mulle_event_loop_lag_seconds", "Since the event loop last turned, less 0.1 s.", registry=registry)
        lag.set_function(lambda: max(0.0, time.monotonic() - self._loop_turned - 0.1))

    def turn_ended(self, turn: TurnRecord) -> None:
        """Count one request that was accepted."""
        self._requests(turn.operation, turn.outcome).inc()
        for stage, value in turn.latency_ms.items():
            self._stages(stage).observe(value / 1000)
        self._stages("journal").observe(turn.journal_s)
        if turn.fallback:
            self._degraded("fallback").inc()
        elif turn.error is not None:
            self._degraded(error_type(turn.error)).inc()
        if turn.retries:
            self._llm_retries.inc(turn.retries)
        if turn.backend is not None and "llm" in turn.latency_ms:
            self._llm_called(turn, turn.backend)

    def _llm_called(self, turn: TurnRecord, backend: Backend) -> None:
        labels = self._labels_of(backend, turn.answer.model if turn.answer is not None else "")
        failed = error_type(turn.error) if turn.error is not None else ""
        self._llm_seconds(*labels, failed).observe(turn.latency_ms["llm"] / 1000)
        if turn.first_token_s is not None:
            self._first_chunk(*labels).observe(turn.first_token_s)
        if turn.answer is not None:
            if turn.answer.prompt_tokens is not None:
                self._tokens(*labels, "input").observe(turn.answer.prompt_tokens)
            if turn.answer.completion_tokens is not None:
                self._tokens(*labels, "output").observe(turn.answer.completion_tokens)

    def _labels_of(self, backend: Backend, answered_as: str) -> tuple[str, ...]:
        key = (backend.api_base, backend.model, answered_as)
        known = self._llm_labels.get(key)
        if known is None:
            if len(self._llm_labels) >= _MAX_LABELS:  # a server that gives each answer another model's name
                key = (backend.api_base, backend.model, "other")
            address, port = server_of(backend)
            known = ("chat", backend.profile, backend.model, key[2][:100], address, str(port))
            self._llm_labels[key] = known
        return known

    def http_ended(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one response; `route` is a template, `status` 0 where the client left before there was one."""
        self._http(method if method in _METHODS else "other", route, str(status)).inc()
        self._http_seconds(route).observe(seconds)

    def observe_sync(self, seconds: float) -> None:
        """One fdatasync of the journal. Safe from any thread."""
        self._sync.observe(seconds)

    def loop_turned(self) -> None:
        """To be called by the event loop every 0.1 s."""
        self._loop_turned = time.monotonic()

    def text(self) -> bytes:
        """This worker's metrics in Prometheus' text format. Safe from any thread."""
        return generate_latest(self.registry)

    async def exposition(self) -> bytes:
        """The metrics of all workers. Made in a thread: it takes some milliseconds."""
        return await asyncio.to_thread(self.text if self.peers is None else self.peers.exposition)


def error_type(error: Exception) -> str:
    """Few values: the code of our own errors, the class of others."""
    return str(getattr(error, "code", "") or type(error).__name__)


def server_of(backend: Backend) -> tuple[str, int]:
    """Host and port of an LLM server."""
    parts = urlsplit(backend.api_base)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _children(metric: Any) -> Callable[..., Any]:
    """`metric.labels(*values)` at a third of its price."""
    kept: dict[tuple[str, ...], Any] = {}

    def child(*values: str) -> Any:
        found = kept.get(values)
        if found is None:
            found = kept[values] = metric.labels(*values)
        return found

    return child
