"""The gateway before real model servers: streams, the OpenAI client, feedback, and the champion that it follows."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import openai
import orjson
import pytest

from lake.registry import Registry
from lake.tables import scan
from serving.backends import Backend, following_champion
from serving.switch import switch_backend
from tests.e2e.turned import Turned

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
QUESTION = "여러 명이 브라우저에서 같이 화면 시안을 고칠 수 있는 툴?"


def streamed(turned: Turned) -> list[tuple[str, dict[str, Any]]]:
    """(event, data) of one streamed search."""
    events: list[tuple[str, dict[str, Any]]] = []
    body = {"question": QUESTION, "stream": True}
    with (
        httpx.Client(trust_env=False, timeout=120) as client,
        client.stream("POST", f"{turned.stack.gateway_url}/api/v1/search", json=body) as reply,
    ):
        assert reply.status_code == 200
        name = ""
        for line in reply.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                events.append((name, orjson.loads(line.removeprefix("data: "))))
    return events


def move(turned: Turned, backend: Backend) -> None:
    champion = Registry(turned.stack.lake.models_dir).champion()
    assert champion is not None
    at = turned.stack.gateway
    asyncio.run(switch_backend(backend, at.env_file, at.ack_dir, champion=champion.adapter_id))


def check_stream(turned: Turned, profile: str) -> str:
    events = streamed(turned)
    names = [name for name, _ in events]
    assert names[0] == "items" and names[-1] == "done" and names.count("token") == len(names) - 2 >= 2
    end = events[-1][1]
    assert "".join(data["text"] for name, data in events if name == "token") == end["answer"]
    assert end["usage"]["completion_tokens"] >= 2 and end["served_by"]["backend"] == profile
    return end["served_by"]["adapter"]


def test_streams_and_clients_on_both_servers_and_the_champion_is_followed(turned: Turned) -> None:
    stack = turned.stack
    registry = Registry(stack.lake.models_dir)
    champion = registry.champion()
    assert champion is not None
    move(turned, following_champion(Backend("llamacpp", stack.llamacpp_tuned_url, "")))
    assert check_stream(turned, "llamacpp") == champion.adapter_id
    move(turned, following_champion(Backend("vllm", stack.ensure_vllm(), "")))
    assert check_stream(turned, "vllm") == champion.adapter_id

    with openai.OpenAI(base_url=f"{stack.gateway_url}/v1", api_key="none", timeout=120) as client:
        served = [model.id for model in client.models.list()]
        assert served[0] == "mulle" and champion.adapter_id in served[1]
        ask: Any = [{"role": "user", "content": QUESTION}]
        answer = client.chat.completions.create(model="mulle", messages=ask, max_tokens=16)
        assert answer.choices[0].message.content and answer.usage and answer.usage.completion_tokens <= 16
        request_id = answer.id.removeprefix("chatcmpl-")

    # Last of all tests that share the turn. Without a champion the model in service stays, and the gateway says what
    # is wrong, until there is one again.
    registry.rollback("test", "followed within a second")
    with httpx.Client(base_url=stack.gateway_url, trust_env=False, timeout=120) as client:
        begun = time.monotonic()
        while not (note := client.get("/api/v1/backend").json()["note"]):
            assert time.monotonic() - begun < 30
            time.sleep(0.05)
        assert "no champion" in note
        assert client.post("/api/v1/search", json={"question": QUESTION}).status_code == 200
        said = {"request_id": request_id, "thumb": "up", "comment": "좋아요"}
        assert client.post("/api/v1/feedback", json=said).status_code == 201
        stack.run_deployment("ingest/local", {"run_id": "feedback"})
        shown = client.get(f"/api/v1/requests/{request_id}").json()
    assert shown["where"] == ["journal", "lake"] and shown["row"]["operation"] == "chat"
    assert shown["feedback"][0]["comment"] == "좋아요"
    rows = scan(stack.lake.lake_dir, "feedback").collect().to_dicts()
    assert [row["request_id"] for row in rows] == [request_id]
