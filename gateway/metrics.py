"""Prometheus metrics of one gateway process, in a registry of their own (several apps fit into one process)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.turns import TurnRecord
from lake.journal.writer import JournalWriter

STAGES = ("embed", "retrieve", "rerank", "prompt", "llm", "journal", "total")
# From a rerank (sub-millisecond) to an LLM on two cores (a minute).
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)


class GatewayMetrics:
    """What is counted; `text()` is the exposition."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mulle_search_requests",
            "Accepted search requests by outcome.",
            ["outcome"],
            registry=self.registry,
        )
        self.refused = Counter(
            "mulle_refused_requests", "Requests refused before they were accepted, by code.", ["code"],
            registry=self.registry,
        )  # fmt: skip
        self.stage_seconds = Histogram(
            "mulle_stage_seconds", "Time of each stage of a search request.", ["stage"], buckets=_BUCKETS_S,
            registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter(
            "mulle_llm_tokens", "Tokens as the LLM server reports them.", ["kind"], registry=self.registry
        )
        self.llm_retries = Counter("mulle_llm_retries", "Repeated calls to the LLM.", registry=self.registry)
        self.in_flight = Gauge("mulle_in_flight", "Search requests being worked on.", registry=self.registry)
        self.feedback = Counter("mulle_feedback", "Feedback by thumb.", ["thumb"], registry=self.registry)
        self.http = Counter("mulle_http_responses", "HTTP responses by status.", ["status"], registry=self.registry)

    def turn_ended(self, turn: TurnRecord) -> None:
        """See `TurnObserver`."""
        self.requests.labels(turn.outcome).inc()
        self.observe_stages({**turn.latency_ms, "journal": turn.journal_s * 1000})
        self.llm_retries.inc(turn.retries)
        if turn.answer is not None:
            self.tokens.labels("prompt").inc(turn.answer.prompt_tokens or 0)
            self.tokens.labels("completion").inc(turn.answer.completion_tokens or 0)

    def observe_stages(self, latency_ms: Mapping[str, float]) -> None:
        """Record the stages of one request; unknown names are a mistake and raise."""
        for stage, value in latency_ms.items():
            if stage not in STAGES:
                raise ValueError(f"unknown stage {stage}")
            self.stage_seconds.labels(stage).observe(value / 1000)

    def watch_journal(self, journal: JournalWriter) -> None:
        """Show the journal's own counters."""
        self.registry.register(_JournalCollector(journal))

    def text(self) -> bytes:
        """The exposition format of Prometheus."""
        return generate_latest(self.registry)


class _JournalCollector(Collector):
    def __init__(self, journal: JournalWriter) -> None:
        self._journal = journal

    def collect(self) -> Iterable[Metric]:
        counters = self._journal.counters
        for name, text, value in (
            ("records", "Records written to the journal.", counters.records),
            ("bytes", "Bytes written to the journal.", counters.bytes),
            ("syncs", "Calls of fdatasync.", counters.syncs),
            ("failures", "Failed writes, syncs and openings.", counters.failures),
            ("rejected", "Records refused because too much waited.", counters.rejected),
        ):
            yield CounterMetricFamily(f"mulle_journal_{name}", text, value=value)
        yield GaugeMetricFamily(
            "mulle_journal_waiting_bytes", "Bytes that wait for the disk.", value=counters.waiting_bytes
        )
        yield GaugeMetricFamily(
            "mulle_journal_healthy",
            "1 while records can be made durable.",
            value=float(self._journal.healthy),
        )
