"""The application in this process: bad input, refusals and ids are problem+json; the journal is asked first."""

from __future__ import annotations

import asyncio
import errno
import unicodedata
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson

from gateway.app import create_app
from gateway.parts import Config, Parts
from lake.journal.disk import OsDisk
from serving.encoders import load_encoder
from serving.index import build_index
from tests.gateway.kit import PATH, Upstream, read_journal, run, sample_tools, wait_until

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b'{"question": ""}', "invalid_question"),
    "blank": (b'{"question": " \\n\\t "}', "invalid_question"),
    "marks only": (b'{"question": "?!..."}', "invalid_question"),
    "over-long": (orjson.dumps({"question": "가" * 2001}), "invalid_question"),
    "half a character": (b'{"question": "\\ud800 tool"}', "invalid_json"),
    "half a character in a name": (b'{"question": "a", "\\udc00": 1}', "invalid_json"),
    "name twice": (b'{"question": "a", "question": "b"}', "invalid_json"),
    "NaN": (b'{"question": "a", "top_k": NaN}', "invalid_json"),
    "NUL": (b'{"question": "a\\u0000b"}', "invalid_question"),
    "escape": (b'{"question": "a\\u001b[31mb"}', "invalid_question"),
    "number": (b'{"question": 5}', "invalid_input"),
    "list": (b'{"question": ["a"]}', "invalid_input"),
    "null": (b'{"question": null}', "invalid_input"),
    "none": (b"{}", "invalid_input"),
    "no body": (b"", "invalid_input"),
    "other field": (b'{"question": "a", "model": "x"}', "invalid_input"),
    "top_k 0": (b'{"question": "a", "top_k": 0}', "invalid_input"),
    "top_k 11": (b'{"question": "a", "top_k": 11}', "invalid_input"),
    "top_k text": (b'{"question": "a", "top_k": "3"}', "invalid_input"),
    "top_k true": (b'{"question": "a", "top_k": true}', "invalid_input"),
    "lang": (b'{"question": "a", "lang": "fr"}', "invalid_input"),
    "session": (b'{"question": "a", "session_id": "a b"}', "invalid_input"),
    "not json": (b"question=a", "invalid_json"),
    "array": (b"[]", "invalid_input"),
    "not utf-8": (b'{"question": "\xff\xfe"}', "invalid_json"),
    "too deep": (b'{"question": ' + b"[" * 20_000, "invalid_json"),
}


def test_bad_input_is_a_problem_that_says_what_to_do(make_config: Callable[..., Config], upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        for name, (body, code) in BAD.items():
            reply = await client.post(PATH, content=body, headers={"content-type": "application/json"})
            assert reply.headers["content-type"] == "application/problem+json", (name, reply.text)
            problem = reply.json()
            assert reply.status_code == problem["status"] < 500 and problem["code"] == code, (name, problem)
            assert problem["request_id"] == reply.headers["x-request-id"], name
            assert problem["type"].startswith("urn:mulle:problem:") and problem["title"] and problem["detail"], name
        assert read_journal(parts.journal.directory.parent) == ({}, {}) and upstream.seen == []

    run(make_config(), work)


def test_good_questions_in_every_spelling(make_config: Callable[..., Config], upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        decomposed = unicodedata.normalize("NFD", "화상 회의 도구")
        assert decomposed != "화상 회의 도구"
        for body in (
            {"question": decomposed}, {"query": "화상\n회의 도구"}, {"user_query": "  화상 회의 도구 "},
        ):  # fmt: skip
            assert (await client.post(PATH, json=body)).status_code == 200
        requests, _ = read_journal(parts.journal.directory.parent)
        assert {row["user_query"] for row in requests.values()} == {"화상 회의 도구"}
        english = (await client.post(PATH, json={"question": "video calls", "top_k": 1})).json()
        assert english["lang"] == "en" and len(english["items"]) == 1
        korean = (await client.post(PATH, json={"question": "video calls", "lang": "ko"})).json()
        assert korean["lang"] == "ko" and len(korean["items"]) == 3

    run(make_config(), work)


def test_paths_methods_bodies_and_ids(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        for reply, status in (
            (await client.get("/nothing"), 404),
            (await client.get(PATH), 405),
            (await client.post(PATH, content=b"x" * 2000), 413),
            (await client.post(PATH, content=_pieces()), 413),
            (await client.post(PATH, content=b"", headers={"content-length": "-5"}), 400),
        ):
            assert reply.status_code == status == reply.json()["status"]
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.json()["request_id"] == reply.headers["x-request-id"]
            assert reply.headers["x-content-type-options"] == "nosniff"
        first = await client.get("/livez", headers={"x-request-id": "my-id.1"})
        assert first.headers["x-client-request-id"] == "my-id.1" != first.headers["x-request-id"]
        for unsafe in ("a" * 65, "a b", "<x>"):
            second = await client.get("/livez", headers={"x-request-id": unsafe})
            assert "x-client-request-id" not in second.headers and len(second.headers["x-request-id"]) == 26

    run(make_config(max_body_bytes=1024), work)


async def _pieces() -> AsyncIterator[bytes]:
    for _ in range(20):
        yield b"x" * 100


def test_slow_body_is_refused(make_config: Callable[..., Config]) -> None:
    async def work(_: httpx.AsyncClient, parts: Parts) -> None:
        sent: list[Any] = []

        async def never() -> Any:
            await asyncio.sleep(30)

        async def send(message: Any) -> None:
            sent.append(message)

        app = create_app(make_config(body_timeout_s=0.1), parts)
        headers = [(b"host", b"localhost"), (b"content-length", b"10"), (b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": PATH, "headers": headers, "query_string": b""}
        scope["client"] = ("127.0.0.1", 9)
        await app(scope, never, send)
        assert sent[0]["status"] == 408 and orjson.loads(sent[1]["body"])["code"] == "body_timeout"

    run(make_config(), work)


class BadDisk(OsDisk):
    """Fails every sync while `broken`."""

    broken = False

    def fdatasync(self, fd: int) -> None:
        if self.broken:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().fdatasync(fd)


def test_no_answer_without_a_record_and_healing(make_config: Callable[..., Config]) -> None:
    disk = BadDisk()

    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        assert (await client.post(PATH, json={"question": "화상 회의"})).status_code == 200
        disk.broken = True
        for _ in range(2):
            reply = await client.post(PATH, json={"question": "화상 회의", "allow_degraded": True})
            assert reply.status_code == 503 and reply.json()["code"] == "log_unavailable"
            assert int(reply.headers["retry-after"]) > 0
        ready = await client.get("/readyz")
        assert ready.status_code == 503 and "journal" in ready.json()["reasons"]
        assert "mulle_journal_healthy 0.0" in (await client.get("/metrics")).text
        disk.broken = False
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post(PATH, json={"question": "화상 회의"})).status_code == 200

    run(make_config(), work, disk=disk)


def test_overload_is_refused_at_once(make_config: Callable[..., Config], upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        upstream.delay_s = 0.5
        first = asyncio.create_task(client.post(PATH, json={"question": "화상 회의"}))
        await asyncio.sleep(0.1)
        assert parts.search.in_flight == 1
        second = await client.post(PATH, json={"question": "화상 회의"})
        assert second.status_code == 503 and second.json()["code"] == "overloaded"
        assert second.headers["retry-after"] == "1"
        assert (await first).status_code == 200

    run(make_config(max_in_flight=1), work)


def test_deadline_of_the_request_bounds_the_llm(make_config: Callable[..., Config], upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        upstream.delay_s = 10
        start = asyncio.get_running_loop().time()
        reply = await client.post(PATH, json={"question": "화상 회의"})
        assert reply.status_code == 504 and asyncio.get_running_loop().time() - start < 1.9

    run(make_config(request_deadline_s=0.5), work)


def test_failure_of_our_own_is_journalled(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        assert parts.retrievers.current is not None

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("planted")

        parts.retrievers.current.search = broken  # type: ignore[method-assign]
        reply = await client.post(PATH, json={"question": "화상 회의"})
        assert reply.status_code == 500 and reply.json()["code"] == "internal" and "planted" not in reply.text
        requests, responses = read_journal(parts.journal.directory.parent)
        assert len(requests) == 1 and [row["outcome"] for row in responses.values()] == ["aborted"]
        assert "planted" in next(iter(responses.values()))["error"]

    run(make_config(), work)


def test_no_backend(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        assert "backend" in (await client.get("/readyz")).json()["reasons"]
        reply = await client.post(PATH, json={"question": "화상 회의"})
        assert reply.status_code == 503 and "LLM_API_BASE" in reply.json()["detail"]
        degraded = await client.post(PATH, json={"question": "화상 회의", "allow_degraded": True})
        assert degraded.status_code == 200 and degraded.json()["served_by"] is None
        _, responses = read_journal(parts.journal.directory.parent)
        assert [row["outcome"] for row in responses.values()] == ["no_llm", "no_llm"]

    config = make_config()
    run(Config(config.gateway, config.lake, config.serving, config.retrieval, config.prompt, {}), work)


def test_new_index_is_taken_up(make_config: Callable[..., Config], tmp_path: Path) -> None:
    config = make_config(index_poll_s=0.05)
    (tmp_path / "data" / "index").unlink()
    folder = tmp_path / "data" / "index"
    encoder = load_encoder()
    build_index(sample_tools({"figma", "zoom"}), "one", encoder, folder)

    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        async def ids() -> set[str]:
            reply = await client.post(PATH, json={"question": "문서 번역", "top_k": 10})
            return {item["id"] for item in reply.json()["items"]}

        assert await ids() == {"figma", "zoom"}
        await asyncio.to_thread(build_index, sample_tools({"figma", "papago"}), "two", encoder, folder)
        await asyncio.to_thread(wait_until, lambda: parts.retrievers.reloads == 1)
        assert await ids() == {"figma", "papago"}
        (folder / "current").unlink()
        (folder / "current").symlink_to("idx-none")
        await asyncio.to_thread(wait_until, lambda: parts.retrievers.reloads == 2)
        assert await ids() == {"figma", "papago"}  # what is not there replaces nothing
        assert "flows.index" in (await client.get("/readyz")).json()["index_note"]

    run(config, work)


def test_metrics_and_description(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        await client.post(PATH, json={"question": "화상 회의"})
        await client.post(PATH, json={"question": ""})
        text = (await client.get("/metrics")).text
        for line in (
            'mulle_search_requests_total{operation="search",outcome="answered"} 1.0',
            'mulle_refused_requests_total{code="invalid_question"} 1.0',
            'mulle_http_responses_total{method="POST",route="/api/v1/search",status="200"} 1.0',
            'mulle_stage_seconds_count{stage="llm"} 1.0',
            "mulle_journal_records_total 2.0",
            "mulle_in_flight 0.0",
        ):
            assert line in text, line
        described = (await client.get("/openapi.json")).json()
        search = described["paths"][PATH]["post"]
        assert search["requestBody"]["content"]["application/json"]["examples"]["korean"]["value"]["question"]
        assert search["responses"]["200"]["content"]["application/json"]["example"]["answer"]
        assert set(search["responses"]) >= {"200", "413", "422", "502", "503", "504"}
        assert {"/livez", "/readyz", "/metrics", "/api/v1/backend"} <= set(described["paths"])

    run(make_config(), work)
