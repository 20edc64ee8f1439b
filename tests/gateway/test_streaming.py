"""Streams: items first, then tokens, then what is known at the end; the journal is asked before each promise."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson
import pytest

from gateway import sse
from gateway.parts import Config, Parts
from lake.journal.disk import OsDisk
from tests.gateway.kit import PATH, Upstream, read_journal, run, wait_until

ASK = {"question": "화상 회의 도구", "stream": True}


def parse(text: str) -> list[tuple[str, dict[str, Any]]]:
    """(event, data) of each event; comments are left out."""
    found: list[tuple[str, dict[str, Any]]] = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            fields = dict(line.split(": ", 1) for line in lines)
            found.append((fields.get("event", "message"), orjson.loads(fields["data"])))
    return found


def journal(parts: Parts) -> tuple[dict[str, Any], dict[str, Any]]:
    return read_journal(parts.journal.directory.parent)


def test_items_then_tokens_then_done(make_config: Callable[..., Config], upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        reply = await client.post(PATH, json=ASK)
        assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream")
        events = parse(reply.text)
        assert [name for name, _ in events] == ["items", "token", "token", "token", "done"]
        head, end = events[0][1], events[-1][1]
        assert len(head["items"]) == 3 and head["request_id"] == end["request_id"] == reply.headers["x-request-id"]
        assert "".join(data["text"] for name, data in events if name == "token") == end["answer"] == "answer of 화면"
        assert end["usage"] == {"prompt_tokens": 7, "completion_tokens": 3} and end["finish_reason"] == "stop"
        assert end["served_by"]["model"] == "m" and end["degraded"] is False and end["latency_ms"]["total"] > 0
        requests, responses = journal(parts)
        written = responses[head["request_id"]]
        assert written["llm_response_content"] == "answer of 화면" and written["outcome"] == "answered"
        assert written["first_token_ms"] > 0 and requests[head["request_id"]]["streamed"] is True

    run(make_config(), work)


@pytest.mark.parametrize("body", [{"question": "", "stream": True}, {"question": "a", "stream": "yes"}])
def test_bad_input_is_a_problem_not_a_stream(make_config: Callable[..., Config], body: dict[str, Any]) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        reply = await client.post(PATH, json=body)
        assert reply.status_code == 422 and reply.headers["content-type"] == "application/problem+json"
        assert journal(parts) == ({}, {})

    run(make_config(), work)


def test_an_llm_that_breaks_off_is_the_last_event(make_config: Callable[..., Config], upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        upstream.break_after = 2
        for degraded in (False, True):  # a stream that has begun can't be taken back, whatever the caller allows
            events = parse((await client.post(PATH, json=ASK | {"allow_degraded": degraded})).text)
            assert [name for name, _ in events] == ["items", "token", "token", "error"]
            problem = events[-1][1]
            assert (
                problem["status"] == 502 and problem["detail"] and problem["request_id"] == events[0][1]["request_id"]
            )
            written = journal(parts)[1][problem["request_id"]]
            assert written["outcome"] == "llm_error" and written["llm_response_content"] == "answer of "

    run(make_config(), work)


def test_no_llm_at_all(make_config: Callable[..., Config], upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        upstream.status = 400
        refused = parse((await client.post(PATH, json=ASK)).text)
        assert [name for name, _ in refused] == ["items", "error"]
        degraded = parse((await client.post(PATH, json=ASK | {"allow_degraded": True})).text)
        assert [name for name, _ in degraded] == ["items", "done"]
        end = degraded[-1][1]
        assert end["answer"] is None and end["degraded"] and end["degraded_reason"] == "llm_error"
        assert end["served_by"] is None
        assert {row["degraded"] for row in journal(parts)[1].values()} == {False, True}

    run(make_config(), work)


def test_a_silent_llm_is_bridged_by_comments_and_ended_by_the_deadline(
    make_config: Callable[..., Config], upstream: Upstream
) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        upstream.delay_s = 0.4
        reply = await client.post(PATH, json=ASK)
        assert ": still working" in reply.text and parse(reply.text)[-1][0] == "done"
        upstream.delay_s = 30.0
        reply = await client.post(PATH, json=ASK)
        assert parse(reply.text)[-1][1]["code"] in ("llm_timeout", "deadline_exceeded")
        await asyncio.to_thread(wait_until, lambda: len(journal(parts)[1]) == 2)

    run(make_config(stream_heartbeat_s=0.1, request_deadline_s=2.0), work)


class Gate(OsDisk):
    """Fails every sync once `left` of them were done; None: never."""

    left: int | None = None

    def fdatasync(self, fd: int) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise OSError(errno.EIO, "Input/output error")
        super().fdatasync(fd)


def test_no_headers_before_the_request_half_and_no_end_before_the_response_half(
    make_config: Callable[..., Config],
) -> None:
    disk = Gate()

    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        disk.left = 0
        reply = await client.post(PATH, json=ASK)
        assert reply.status_code == 503 and reply.json()["code"] == "log_unavailable"
        disk.left = None
        assert (await client.get("/readyz")).status_code == 200
        disk.left = 1
        events = parse((await client.post(PATH, json=ASK)).text)
        assert [name for name, _ in events] == ["items", "token", "token", "token", "error"]
        assert events[-1][1]["code"] == "log_unavailable" and events[-1][1]["status"] == 503
        disk.left = None

    run(make_config(), work, disk=disk)


def test_a_client_that_goes_leaves_the_partial_answer(make_config: Callable[..., Config], upstream: Upstream) -> None:
    """Driven below HTTP: the in-process transport reads a response whole."""

    async def work(_: httpx.AsyncClient, parts: Parts) -> None:
        from gateway.asks import Origin, SearchAsk

        upstream.pieces = tuple(f"{n} " for n in range(200))
        upstream.delay_s = 0.02
        stream = await parts.search.stream(SearchAsk("화상 회의"), Origin("01JD8Y7K3M5QX0R2T4V6W8Z9AB"))
        assert journal(parts)[0] and not journal(parts)[1]
        events = stream.events(10)
        assert [await anext(events), await anext(events)] == ["0 ", "1 "]
        await events.aclose()  # type: ignore[attr-defined]
        stream.abandon()
        await asyncio.to_thread(wait_until, lambda: bool(journal(parts)[1]))
        written = next(iter(journal(parts)[1].values()))
        assert written["outcome"] == "client_gone" and written["llm_response_content"].startswith("0 1 ")
        assert len(written["llm_response_content"].split()) < 100  # the LLM was not asked for the rest
        await asyncio.to_thread(wait_until, lambda: upstream.hung_up == 1)
        assert parts.search.in_flight == 0

    run(make_config(), work)


def test_a_client_that_goes_before_the_first_byte_is_noticed() -> None:
    async def work() -> None:
        closed: list[bool] = []

        async def events() -> AsyncIterator[bytes]:
            yield b"never asked for"

        async def gone(_: Any) -> None:
            raise OSError("the client has gone")

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        response = sse.stream_response(events(), lambda: closed.append(True))
        with contextlib.suppress(Exception):
            await response({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, gone)
        assert closed == [True]

    asyncio.run(work())
