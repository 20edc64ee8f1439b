"""Spans as a real OTLP/HTTP receiver gets them; without an endpoint OpenTelemetry is not even imported."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway.parts import Config, Parts
from gateway.tracing import Tracing
from gateway.tracing_settings import TracingSettings
from lake.errors import SetupError
from tests.gateway.kit import PATH, ROOT, Upstream, run

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
QUESTION = "화상 회의 도구"


class Receiver(ThreadingHTTPServer):
    """Keeps every span it is sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def spans(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    found.update({span.name: span for span in scope.spans})
        return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def attributes(span: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        kind = value.WhichOneof("value")
        if kind == "array_value":
            return [plain(one) for one in value.array_value.values]
        return getattr(value, kind)

    return {pair.key: plain(pair.value) for pair in span.attributes}


def with_traces(config: Config, receiver: Receiver) -> Config:
    endpoint = f"http://127.0.0.1:{receiver.server_address[1]}"
    return Config(**{**vars(config), "tracing": TracingSettings(otlp_endpoint=endpoint)})


def test_three_spans_continue_the_callers_trace_and_hold_no_text(
    make_config: Callable[..., Config], receiver: Receiver, upstream: Upstream
) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        reply = await client.post(PATH, json={"question": QUESTION}, headers=headers)
        answered.append(reply.headers["traceparent"])
        unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        assert (await client.post("/api/v1/search", json={"question": QUESTION}, headers=unsampled)).status_code == 200

    answered: list[str] = []
    run(with_traces(make_config(), receiver), work)
    spans = receiver.spans
    assert set(spans) == {f"POST {PATH}", "retrieval", "chat m"}
    server, retrieval, llm = spans[f"POST {PATH}"], spans["retrieval"], spans["chat m"]
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert server.parent_span_id.hex() == PARENT and server.span_id.hex() == answered[0].split("-")[2]
    assert retrieval.parent_span_id == llm.parent_span_id == server.span_id
    assert server.start_time_unix_nano <= retrieval.start_time_unix_nano <= retrieval.end_time_unix_nano
    assert (
        retrieval.end_time_unix_nano <= llm.start_time_unix_nano < llm.end_time_unix_nano <= server.end_time_unix_nano
    )
    found = attributes(llm)
    assert found["gen_ai.operation.name"] == "chat" and found["gen_ai.provider.name"] == "llamacpp"
    assert found["gen_ai.request.model"] == "m" and found["gen_ai.request.max_tokens"] == 160
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (7, 3)
    assert found["gen_ai.response.finish_reasons"] == ["stop"] and found["server.address"] == "127.0.0.1"
    assert attributes(retrieval)["mulle.items"] == 3 and attributes(server)["http.route"] == PATH
    for body in receiver.bodies:
        assert QUESTION.encode() not in body and b"answer of" not in body
    # The LLM server was told of the same trace.
    assert upstream.traceparents[0].split("-")[1] == TRACE


def test_a_span_tells_what_the_request_asked_for_not_the_defaults(
    make_config: Callable[..., Config], receiver: Receiver
) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 7, "temperature": 0.5}
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200

    run(with_traces(make_config(), receiver), work)
    found = attributes(receiver.spans["chat m"])
    assert (found["gen_ai.request.max_tokens"], found["gen_ai.request.temperature"]) == (7, 0.5)


def test_an_error_is_in_the_spans(make_config: Callable[..., Config], receiver: Receiver, upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        upstream.status = 400
        assert (await client.post(PATH, json={"question": QUESTION})).status_code == 502

    run(with_traces(make_config(), receiver), work)
    spans = receiver.spans
    for name in (f"POST {PATH}", "chat m"):
        assert spans[name].status.code == 2 and attributes(spans[name])["error.type"] == "llm_refused"
    assert spans[f"POST {PATH}"].parent_span_id == b""


def test_a_collector_that_is_down_costs_no_request(make_config: Callable[..., Config], receiver: Receiver) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        for _ in range(40):
            assert (await client.post(PATH, json={"question": QUESTION})).status_code == 200

    config = with_traces(make_config(), receiver)
    settings = TracingSettings(otlp_endpoint="http://127.0.0.1:9", otlp_queue=16, otlp_timeout_s=0.2)
    run(Config(**{**vars(config), "tracing": settings}), work)


def test_a_wrong_endpoint_is_said_at_the_start() -> None:
    with pytest.raises(SetupError, match="MULLE_OTLP_ENDPOINT"):
        Tracing(TracingSettings(otlp_endpoint="collector:4318"))


def test_without_an_endpoint_nothing_of_it_is_imported() -> None:
    code = "import sys, gateway.worker; print([m for m in sys.modules if m.startswith('opentelemetry.sdk')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
