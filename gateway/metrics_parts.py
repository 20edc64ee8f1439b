"""Metrics that are read from the running parts at the scrape, and so are true at that moment: journal, backends, index.

Registered by `watch_parts`. Reads attributes only, from the thread that answers the scrape; takes no lock.
What a key, a limit or a full queue refused is counted where it happens (`mulle_refused_requests`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.backend_holder import BackendHolder
from gateway.retriever_holder import RetrieverHolder
from lake.journal.writer import JournalWriter

_CIRCUIT = {"closed": 0, "half_open": 1, "open": 2}


class InFlight(Protocol):
    """What counts the requests under way."""

    @property
    def in_flight(self) -> int: ...


def watch_parts(
    registry: CollectorRegistry,
    journal: JournalWriter,
    backends: BackendHolder,
    retrievers: RetrieverHolder,
    search: InFlight,
) -> None:
    """Show these parts in `registry`."""
    registry.register(_PartsCollector(journal, backends, retrievers, search))


class _PartsCollector(Collector):
    def __init__(
        self, journal: JournalWriter, backends: BackendHolder, retrievers: RetrieverHolder, search: InFlight
    ) -> None:
        self._journal = journal
        self._backends = backends
        self._retrievers = retrievers
        self._search = search

    def collect(self) -> Iterable[Metric]:
        yield _gauge("mulle_in_flight", "Search requests being worked on.", self._search.in_flight)
        yield from self._of_journal()
        yield from self._of_backends()
        yield from self._of_index()

    def _of_journal(self) -> Iterable[Metric]:
        journal = self._journal
        counters = journal.counters
        yield _counter("mulle_journal_records", "Records written to the journal.", counters.records)
        yield _counter("mulle_journal_bytes", "Bytes written to the journal.", counters.bytes)
        yield _counter("mulle_journal_syncs", "Calls of fdatasync.", counters.syncs)
        yield _counter("mulle_journal_failures", "Failed writes, syncs and openings.", counters.failures)
        yield _counter("mulle_journal_rejected", "Records refused because too much waited.", counters.rejected)
        yield _gauge("mulle_journal_waiting_bytes", "Bytes that wait for the disk.", counters.waiting_bytes)
        yield _gauge("mulle_journal_healthy", "1 while records can be made durable.", journal.healthy)
        yield _gauge(
            "mulle_journal_unsynced_seconds",
            "Age of the oldest answered record that a power cut would lose; always 0 in sync mode.",
            journal.unsynced_s,
        )
        yield _gauge("mulle_journal_window_seconds", "Longest it may get; 0 in sync mode.", journal.window_s)

    def _of_backends(self) -> Iterable[Metric]:
        holder = self._backends
        backend = holder.backend
        if backend is not None:
            yield _gauge("mulle_backend_generation", "Of the backend of new requests.", backend.generation)
            yield _info(
                "mulle_backend",
                "The backend of new requests.",
                {"profile": backend.profile, "model": backend.model, "adapter": backend.adapter},
            )
        circuit = GaugeMetricFamily(
            "mulle_backend_circuit", "Circuit of a backend: 0 closed, 1 half open, 2 open.", labels=["role"]
        )
        opened = CounterMetricFamily("mulle_backend_circuit_opened", "How often it opened.", labels=["role"])
        for target in holder.states():
            circuit.add_metric([target["role"]], _CIRCUIT[target["state"]])
            opened.add_metric([target["role"]], target["opened"])
        yield circuit
        yield opened
        yield _counter("mulle_backend_switches", "Backends replaced by others.", holder.switches)
        yield _gauge("mulle_backend_draining", "Requests that still use a replaced backend.", holder.draining)
        yield _gauge("mulle_backend_refused", "1 while a configuration that can't be used waits.", bool(holder.reason))

    def _of_index(self) -> Iterable[Metric]:
        retriever = self._retrievers.current
        if retriever is not None:
            yield _info(
                "mulle_index",
                "The index in service.",
                {"version": retriever.index.version, "embedder": retriever.encoder.name},
            )
        yield _counter("mulle_index_reloads", "Indexes replaced by others.", self._retrievers.reloads)
        yield _gauge("mulle_index_refused", "1 while an index that can't be used waits.", bool(self._retrievers.reason))


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _info(name: str, text: str, value: Mapping[str, Any]) -> Metric:
    return InfoMetricFamily(name, text, value={key: str(text) for key, text in value.items()})
