"""What /metrics shows: the conventions' names and buckets, bounded labels, every worker in one scrape, true gauges."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import GatewayMetrics
from gateway.metrics_peers import WorkerPeers
from gateway.parts import Config, Parts
from gateway.turns import TurnRecord
from lake.errors import BackendTimeout
from serving.answers import ChatAnswer
from serving.backends import Backend
from tests.gateway.kit import PATH, Gateway, Upstream, run, wait_until


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(text: str, name: str, **labels: str) -> float:
    """Sum of the series of `name` that have these labels."""
    return sum(value for (found, its), value in samples(text).items() if found == name and labels.items() <= set(its))


def turn(**changes: Any) -> TurnRecord:
    fields: dict[str, Any] = {
        "request_id": "r", "operation": "search", "streamed": True, "trace": None, "began_unix_ns": 0,
        "max_tokens": 9, "temperature": 0.5,
        "latency_ms": {"embed": 1.0, "llm": 250.0, "total": 260.0}, "journal_s": 0.004, "first_token_s": 0.1,
        "outcome": "answered", "backend": Backend("vllm", "http://127.0.0.1:8101/v1", "m"), "fallback": False,
        "answer": ChatAnswer("a", "stop", 12, 5, "m-1"), "error": None, "retries": 0, "items": 3,
        "index_version": "i", "stored": True,
    }  # fmt: skip
    return TurnRecord(**{**fields, **changes})


def test_calls_of_the_llm_have_the_conventions_names_labels_and_buckets() -> None:
    metrics = GatewayMetrics()
    metrics.turn_ended(turn())
    metrics.turn_ended(turn(answer=None, error=BackendTimeout("slow"), outcome="llm_timeout", first_token_s=None))
    text = metrics.text().decode()
    name = "gen_ai_client_operation_duration_seconds"
    bounds = {dict(labels)["le"] for found, labels in samples(text) if found == f"{name}_bucket"}
    assert {"0.01", "0.02", "0.04", "81.92", "+Inf"} <= bounds and len(bounds) == 15
    asked = {
        "gen_ai_operation_name": "chat", "gen_ai_provider_name": "vllm", "gen_ai_request_model": "m",
        "server_address": "127.0.0.1", "server_port": "8101",
    }  # fmt: skip
    assert total(text, f"{name}_count", **asked, error_type="") == 1
    assert total(text, f"{name}_count", **asked, error_type="llm_timeout") == 1
    assert total(text, "gen_ai_client_token_usage_sum", gen_ai_token_type="input", gen_ai_response_model="m-1") == 12
    assert total(text, "gen_ai_client_operation_time_to_first_chunk_seconds_count", **asked) == 1
    assert total(text, "mulle_degraded_total", reason="llm_timeout") == 1


def test_a_server_that_names_ever_other_models_fills_no_memory() -> None:
    metrics = GatewayMetrics()
    for number in range(500):
        metrics.turn_ended(turn(answer=ChatAnswer("a", "stop", 1, 1, f"m-{number}")))
    text = metrics.text().decode()
    models = {dict(labels).get("gen_ai_response_model") for _, labels in samples(text)} - {None}
    assert len(models) <= 66 and "other" in models
    assert total(text, "gen_ai_client_operation_duration_seconds_count") == 500


def test_routes_are_templates_and_methods_are_few(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        for n in range(20):
            await client.get(f"/nothing/{n}")
            await client.get(f"/v1/models/m-{n}")
        await client.request("BREW", "/livez")
        text = (await client.get("/metrics")).text
        assert total(text, "mulle_http_responses_total", route="none", status="404") == 20
        assert total(text, "mulle_http_responses_total", route="/v1/models/{model:path}", status="404") == 20
        assert total(text, "mulle_http_responses_total", method="other") == 1
        assert len({labels for name, labels in samples(text) if name == "mulle_http_seconds_count"}) <= 4

    run(make_config(), work)


def test_the_parts_are_shown_as_they_are(make_config: Callable[..., Config], upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        await client.post(PATH, json={"question": "화상 회의"})
        await asyncio.to_thread(wait_until, lambda: parts.journal.counters.syncs > 0)
        text = (await client.get("/metrics")).text
        assert total(text, "mulle_journal_records_total") == 2
        assert total(text, "mulle_journal_sync_seconds_count") == total(text, "mulle_journal_syncs_total") >= 1
        assert total(text, "mulle_journal_window_seconds") == pytest.approx(0.05)
        assert 0 <= total(text, "mulle_journal_unsynced_seconds") < 5
        assert total(text, "mulle_backend_circuit", role="primary") == 0
        assert total(text, "mulle_backend_info", profile="llamacpp", model="m") == 1
        assert total(text, "mulle_embed_batch_size_count") == 1
        assert parts.retrievers.current is not None
        assert total(text, "mulle_index_info", version=parts.retrievers.current.index.version) == 1

    run(make_config(journal_mode="group"), work)


def test_the_age_of_unsynced_records_grows_until_the_window_ends(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        await client.post(PATH, json={"question": "화상 회의"})
        assert parts.journal.unsynced_s > 0  # nothing is synced before a minute is over

    run(make_config(journal_mode="group", journal_group_window_ms=10_000), work)


def counting(value: float) -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("mulle_asked", "Questions.", ["kind"], registry=registry).labels("a").inc(value)
    return registry


def test_one_exposition_of_all_workers_that_says_who_is_missing(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100) / ("y" * 100)  # longer than the address of a socket may be
    first = WorkerPeers(counting(2), deep, "f", 0, 3)
    second = WorkerPeers(counting(5), deep, "f", 1, 3)
    try:
        for peer in (first, second):
            text = peer.exposition().decode()
            assert total(text, "mulle_asked_total", worker="0", kind="a") == 2
            assert total(text, "mulle_asked_total", worker="1") == 5
            assert [total(text, "mulle_worker_up", worker=str(n)) for n in range(3)] == [1, 1, 0]
        second.close()
        text = first.exposition().decode()
        assert total(text, "mulle_worker_up", worker="1") == 0 and total(text, "mulle_asked_total") == 2
    finally:
        first.close()
        second.close()


def test_two_workers_in_one_scrape(start_gateway: Callable[..., Gateway], upstream: Upstream) -> None:
    gateway = start_gateway(
        {"LLM_API_BASE": upstream.base, "LLM_MODEL_NAME": "m", "LLM_PROFILE": "llamacpp", "MULLE_WORKERS": "2"}
    )

    def scrape() -> str:
        return httpx.get(f"{gateway.url}/metrics", trust_env=False).text

    wait_until(lambda: total(scrape(), "mulle_worker_up") == 2, 60)
    asked = 12
    for _ in range(asked):  # a connection each, so that both workers may get some
        assert httpx.post(f"{gateway.url}{PATH}", json={"question": "화상 회의"}, trust_env=False).status_code == 200
    for _ in range(4):  # whichever worker is asked
        text = scrape()
        assert total(text, "mulle_search_requests_total", outcome="answered") == asked
        assert total(text, "mulle_journal_records_total") == 2 * asked
        assert {dict(labels).get("worker") for name, labels in samples(text) if name == "mulle_worker_starts"} == {
            "0", "1",
        }  # fmt: skip
    assert gateway.stop() == 0
    assert list((gateway.data_dir / "run" / "workers").glob("*.sock")) == []
