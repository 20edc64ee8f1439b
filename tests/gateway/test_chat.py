"""The OpenAI-compatible endpoint: shapes as the API reference has them, one search behind them, nothing unsaid."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest

from gateway.parts import Config, Parts
from tests.gateway.kit import Upstream, read_journal, run

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "mulle", "messages": [{"role": "user", "content": "화상 회의 도구"}]}


def chunks(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [orjson.loads(line) for line in lines[:-1]]


def test_a_completion(make_config: Callable[..., Config], upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        history = [{"role": "system", "content": "be rude"}, {"role": "assistant", "content": "hm"}]
        asked = ASK | {
            "messages": [*history, {"role": "user", "content": [{"type": "text", "text": "화상 회의 도구"}]}],
            "max_tokens": 12, "temperature": 0.5, "mulle": {"top_k": 2, "session_id": "s"}, "top_p": 1, "user": "u",
        }  # fmt: skip
        reply = await client.post(CHAT, json=asked)
        body = reply.json()
        assert reply.status_code == 200 and body["object"] == "chat.completion" and body["model"] == "mulle"
        assert body["choices"][0]["message"] == {"role": "assistant", "content": "answer of model-a", "refusal": None}
        assert body["choices"][0]["finish_reason"] == "stop"
        assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        rid = reply.headers["x-request-id"]
        assert body["id"] == f"chatcmpl-{rid}" and len(body["mulle"]["items"]) == 2
        assert upstream.seen[-1]["max_tokens"] == 12 and upstream.seen[-1]["temperature"] == 0.5
        assert [message["role"] for message in upstream.seen[-1]["messages"]] == ["user"]
        logged = read_journal(parts.journal.directory.parent)[0][rid]
        assert (
            logged["user_query"] == "화상 회의 도구" and logged["operation"] == "chat" and logged["session_id"] == "s"
        )

    run(make_config(), work)


@pytest.mark.parametrize("with_usage", [False, True])
def test_a_stream(make_config: Callable[..., Config], with_usage: bool) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        asked = ASK | {"stream": True, "stream_options": {"include_usage": with_usage}, "store": False}
        reply = await client.post(CHAT, json=asked)
        got = chunks(reply.text)
        assert got[0]["choices"][0]["delta"]["role"] == "assistant" and len(got[0]["mulle"]["items"]) == 3
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in got if chunk["choices"]) == (
            "answer of 화면"
        )
        last = got[-2] if with_usage else got[-1]
        assert last["choices"][0]["finish_reason"] == "stop" and last["mulle"]["served_by"]["model"] == "m"
        assert len({chunk["id"] for chunk in got}) == 1 and {chunk["object"] for chunk in got} == {
            "chat.completion.chunk"
        }
        if with_usage:
            assert got[-1]["choices"] == [] and got[-1]["usage"]["total_tokens"] == 10
        rid = reply.headers["x-request-id"]
        requests, responses = read_journal(parts.journal.directory.parent)
        assert requests[rid]["user_query"] == "" and responses[rid]["llm_response_content"] is None

    run(make_config(), work)


def test_a_stream_that_breaks_has_no_done(make_config: Callable[..., Config], upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        upstream.break_after = 1
        reply = await client.post(CHAT, json=ASK | {"stream": True})
        assert "[DONE]" not in reply.text and '"error"' in reply.text.rstrip().split("\n")[-1]

    run(make_config(), work)


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"model": "gpt-4o"}, 404, "model_not_found"),
        ({"messages": []}, 422, "invalid_input"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 422, "invalid_input"),
        ({"messages": [{"role": "user", "content": None}]}, 422, "invalid_question"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "unsupported_parameter"),
        ({"n": 2}, 400, "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, 400, "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, 400, "unsupported_parameter"),
        ({"stop": ["x"]}, 400, "unsupported_parameter"),
        ({"max_tokens": 0}, 422, "invalid_input"),
        ({"max_tokens": 100_000}, 422, "invalid_input"),
        ({"temperature": 3}, 422, "invalid_input"),
        ({"mulle": {"top_k": 99}}, 422, "invalid_input"),
        ({"mulle": {"nothing": 1}}, 422, "invalid_input"),
    ],
)
def test_what_can_not_be_honoured_is_refused(
    make_config: Callable[..., Config], upstream: Upstream, changes: dict[str, Any], status: int, code: str
) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        reply = await client.post(CHAT, json=ASK | changes)
        problem = reply.json()
        assert (reply.status_code, problem["code"]) == (status, code), problem
        assert problem["error"]["message"] == problem["detail"] and problem["error"]["code"] == code
        assert upstream.seen == []

    run(make_config(), work)


def test_models(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        listed = (await client.get("/v1/models")).json()
        assert listed["object"] == "list" and [card["id"] for card in listed["data"]] == ["finder", "m"]
        assert (await client.get("/v1/models/finder")).json()["owned_by"] == "mulle"
        assert (await client.get("/v1/models/m")).status_code == 200
        assert (await client.get("/v1/models/other")).status_code == 404
        for model in ("finder", "m"):
            assert (await client.post(CHAT, json=ASK | {"model": model})).status_code == 200

    run(make_config(model_alias="finder"), work)
