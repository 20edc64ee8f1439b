"""Traces of searches over OTLP, made after the fact from a `TurnRecord`: a request never waits for them.

Three spans a request: the server's (continuing `traceparent`), `retrieval`, and `chat {model}` with the attributes of
OpenTelemetry's GenAI conventions (opentelemetry.io, docs/specs/semconv/gen-ai/gen-ai-spans). Sends to
`MULLE_OTLP_ENDPOINT`; imports OpenTelemetry only where that is set. Invariants: no question and no answer text leaves
in a span; the queue is bounded, what does not fit it is dropped; a collector that is down costs nothing but its spans.
"""

from __future__ import annotations

from typing import Any, cast

from gateway.metrics import error_type, server_of
from gateway.tracing_settings import TracingSettings
from gateway.turns import TurnRecord
from lake.errors import SetupError

_ROUTES = {"search": "/api/v1/search", "chat": "/v1/chat/completions"}


class Tracing:
    """A `TurnObserver`. `close` it at the end: it sends what waits, for `otlp_timeout_s` at most."""

    def __init__(self, settings: TracingSettings) -> None:
        """Raises `SetupError` where OpenTelemetry is not installed or the endpoint is no http(s) address."""
        try:
            from opentelemetry import trace
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise SetupError("MULLE_OTLP_ENDPOINT needs OpenTelemetry: pip install 'mulle[otel]'.") from error
        if not settings.otlp_endpoint.startswith(("http://", "https://")):
            raise SetupError("MULLE_OTLP_ENDPOINT is not an http(s) address: set it, for example, to http://HOST:4318.")
        self._trace = trace
        exporter = OTLPSpanExporter(
            endpoint=settings.otlp_endpoint.rstrip("/") + "/v1/traces", timeout=settings.otlp_timeout_s
        )
        self._timeout_ms = round(settings.otlp_timeout_s * 1000)
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=settings.otlp_queue,
            max_export_batch_size=min(512, settings.otlp_queue),
            schedule_delay_millis=1000,
        )
        self._ids = _GivenIds()
        # Sampling was decided by whoever began the trace: spans of one that is not sampled are not made at all.
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "mulle-gateway"}),
            id_generator=cast("Any", self._ids),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("mulle.gateway")

    def turn_ended(self, turn: TurnRecord) -> None:
        """Queue the spans of one request."""
        if turn.trace is None or not turn.trace.sampled:
            return
        trace = self._trace
        begin = turn.began_unix_ns
        end = begin + _ns(turn.latency_ms.get("total", 0.0)) + round(turn.journal_s * 1e9)
        parent = None
        if turn.trace.parent_id:
            context = trace.SpanContext(
                int(turn.trace.trace_id, 16), int(turn.trace.parent_id, 16), True, trace.TraceFlags(1)
            )
            parent = trace.set_span_in_context(trace.NonRecordingSpan(context))
        self._ids.use(int(turn.trace.trace_id, 16), int(turn.trace.span_id, 16))
        route = _ROUTES[turn.operation]
        server = self._tracer.start_span(
            f"POST {route}", parent, trace.SpanKind.SERVER, start_time=begin,
            attributes={
                "http.request.method": "POST", "http.route": route, "mulle.request_id": turn.request_id,
                "mulle.outcome": turn.outcome, "mulle.streamed": turn.streamed, "mulle.stored": turn.stored,
                "mulle.journal_s": turn.journal_s,
            },
        )  # fmt: skip
        inside = trace.set_span_in_context(server)
        at = begin
        found = sum(_ns(turn.latency_ms.get(stage, 0.0)) for stage in ("embed", "retrieve", "rerank", "prompt"))
        retrieval = self._tracer.start_span(
            "retrieval", inside, trace.SpanKind.INTERNAL, start_time=at,
            attributes={
                "mulle.items": turn.items, "mulle.index_version": turn.index_version,
                **{f"mulle.{stage}_ms": ms for stage, ms in turn.latency_ms.items() if stage not in ("llm", "total")},
            },
        )  # fmt: skip
        retrieval.end(at + found)
        if turn.backend is not None and "llm" in turn.latency_ms:
            self._llm_span(turn, inside, at + found)
        if turn.error is not None:
            server.set_attribute("error.type", error_type(turn.error))
            server.set_status(trace.StatusCode.ERROR)
        server.end(end)

    def _llm_span(self, turn: TurnRecord, inside: Any, begin: int) -> None:
        backend, answer = turn.backend, turn.answer
        assert backend is not None
        address, port = server_of(backend)
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": backend.profile,
            "gen_ai.request.model": backend.model, "gen_ai.output.type": "text",
            "server.address": address, "server.port": port,
            "gen_ai.request.max_tokens": turn.max_tokens, "gen_ai.request.temperature": turn.temperature,
            "mulle.fallback": turn.fallback, "mulle.retries": turn.retries,
        }  # fmt: skip
        if backend.adapter:
            attributes["mulle.adapter"] = backend.adapter
        if answer is not None:
            attributes |= {
                name: value
                for name, value in (
                    ("gen_ai.response.model", answer.model),
                    ("gen_ai.response.finish_reasons", [answer.finish_reason] if answer.finish_reason else None),
                    ("gen_ai.usage.input_tokens", answer.prompt_tokens),
                    ("gen_ai.usage.output_tokens", answer.completion_tokens),
                )
                if value
            }
        if turn.first_token_s is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = turn.first_token_s
        trace = self._trace
        span = self._tracer.start_span(
            f"chat {backend.model}", inside, trace.SpanKind.CLIENT, start_time=begin, attributes=attributes
        )
        if turn.error is not None:
            span.set_attribute("error.type", error_type(turn.error))
            span.set_status(trace.StatusCode.ERROR)
        span.end(begin + _ns(turn.latency_ms["llm"]))

    def close(self) -> None:
        """Send what waits and end the exporter's thread. Blocks for `otlp_timeout_s` at most; safe to repeat."""
        self._provider.force_flush(self._timeout_ms)
        self._provider.shutdown()


class _GivenIds:
    """The server span has the id that was answered in `traceparent`; the others get random ones."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        self._random = RandomIdGenerator()
        self._next: tuple[int, int] | None = None

    def use(self, trace_id: int, span_id: int) -> None:
        """For the next span that is begun."""
        self._next = (trace_id, span_id)

    def generate_span_id(self) -> int:
        """64 bits."""
        if self._next is None:
            return self._random.generate_span_id()
        (_, span_id), self._next = self._next, None
        return span_id

    def generate_trace_id(self) -> int:
        """128 bits; asked for before the span's id where the trace begins here."""
        return self._next[0] if self._next is not None else self._random.generate_trace_id()

    def is_trace_id_random(self) -> bool:
        """A caller's id need not be."""
        return False


def _ns(milliseconds: float) -> int:
    return round(milliseconds * 1e6)
