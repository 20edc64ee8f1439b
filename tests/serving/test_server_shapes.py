"""How each server lists its models and says what is wrong: recorded shapes, and what we make of them."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from lake.errors import BackendError, BackendOverloaded, BackendRefused
from serving.answers import ModelCard
from serving.backends import Backend
from serving.client import LLMClient
from tests.serving.test_client import MESSAGES, response, sends, toxic_server

LISTS: dict[str, tuple[dict[str, Any], list[ModelCard]]] = {
    "vllm": (
        {"object": "list", "data": [
            {"id": "base", "object": "model", "owned_by": "vllm", "root": "/m/base", "parent": None},
            {"id": "mulle-a", "object": "model", "owned_by": "vllm", "root": "/m/adapters/a", "parent": "base"},
        ]},
        [ModelCard("base", "/m/base"), ModelCard("mulle-a", "/m/adapters/a", "base")],
    ),
    "lmstudio": (
        {"object": "list", "data": [{"id": "gemma-3-270m", "object": "model", "owned_by": "organization_owner"}]},
        [ModelCard("gemma-3-270m")],
    ),
    "ollama": (
        {"object": "list", "data": [{"id": "gemma3:270m", "object": "model", "created": 1, "owned_by": "library"}]},
        [ModelCard("gemma3:270m")],
    ),
    "llamacpp": (
        {"models": [{"name": "base"}], "object": "list", "data": [{"id": "base", "meta": {"n_vocab": 262144}}]},
        [ModelCard("base")],
    ),
}  # fmt: skip

# profile, status, body, class of the error, what its message must hold
ERRORS: list[tuple[str, int, Any, type[BackendError], list[str]]] = [
    ("vllm", 404, {"error": {"message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}},
     BackendRefused, ["does not exist", "flows.promote"]),
    ("vllm", 400, {"object": "error", "message": "This model's maximum context length is 2048 tokens.", "code": 400},
     BackendRefused, ["maximum context length"]),
    ("vllm", 401, {"error": "Unauthorized"}, BackendRefused, ["refuses the key", "Unauthorized", "LLM_API_KEY"]),
    ("vllm", 422, {"detail": [{"loc": ["body", "stop"], "msg": "bad stop"}]}, BackendRefused, ["bad stop"]),
    ("vllm", 500, {"error": {"message": "EngineCore encountered an issue."}}, BackendError, ["EngineCore"]),
    ("lmstudio", 404, {"error": {"message": "No models loaded. Please load a model.", "code": "model_not_found"}},
     BackendRefused, ["No models loaded", "lms load KEY --identifier m"]),
    ("lmstudio", 400, {"error": {"message": "No models loaded. Please load a model.", "type": "invalid_request_error",
                                 "param": "model"}}, BackendRefused, ["No models loaded", "--identifier m"]),
    ("lmstudio", 400, {"error": "Failed to load model \"m\". Error: insufficient system resources."},
     BackendRefused, ["insufficient system resources", "lms load"]),
    ("lmstudio", 200, {"error": "Unexpected endpoint or method. (POST /chat/completions). Returning 200 anyway"},
     BackendError, ["Unexpected endpoint"]),
    ("ollama", 404, {"error": {"message": "model 'm' not found", "type": "api_error", "param": None, "code": None}},
     BackendRefused, ["not found", "ollama create m"]),
    ("ollama", 500, {"error": "llama runner process has terminated: signal: killed"}, BackendError, ["terminated"]),
    ("llamacpp", 503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}},
     BackendOverloaded, ["Loading model"]),
    ("llamacpp", 400, {"error": {"code": 400, "message": "the request exceeds the available context size",
                                 "type": "exceed_context_size_error"}}, BackendRefused, ["available context size"]),
    ("llamacpp", 401, {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}},
     BackendRefused, ["Invalid API Key"]),
    ("openai", 429, {"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}},
     BackendOverloaded, ["Rate limit reached"]),
]  # fmt: skip


@pytest.mark.parametrize("profile", LISTS)
def test_lists_of_models(profile: str) -> None:
    body, expected = LISTS[profile]

    async def run() -> None:
        async with toxic_server(sends(response(orjson.dumps(body)))) as (base, heads):
            client = LLMClient(Backend(profile, base, "m", "key"))
            assert await client.list_models() == expected
            assert b"authorization: bearer key" in heads[0].lower()
            await client.aclose()

    asyncio.run(run())


@pytest.mark.parametrize(("profile", "status", "body", "kind", "says"), ERRORS)
@pytest.mark.parametrize("streamed", [False, True], ids=["chat", "stream"])
def test_errors(
    profile: str, status: int, body: Any, kind: type[BackendError], says: list[str], streamed: bool
) -> None:
    async def run() -> None:
        data = response(orjson.dumps(body), status, content_type="application/json")
        async with toxic_server(sends(data)) as (base, _):
            client = LLMClient(Backend(profile, base, "m", "key"))
            with pytest.raises(BackendError) as caught:
                if streamed:
                    async for _piece in client.stream(MESSAGES, 8, deadline_s=5):
                        pass
                else:
                    await client.chat(MESSAGES, 8, deadline_s=5)
            assert type(caught.value) is kind
            for text in says:
                assert text in str(caught.value)
            await client.aclose()

    asyncio.run(run())


def test_no_key_where_one_is_asked_for() -> None:
    async def run() -> None:
        async with toxic_server(sends(response(b'{"error": "Unauthorized"}', 401))) as (base, heads):
            client = LLMClient(Backend("vllm", base, "m"))
            with pytest.raises(BackendRefused, match="asks for a key"):
                await client.chat(MESSAGES, 8, deadline_s=5)
            assert b"authorization" not in heads[0].lower()
            await client.aclose()

    asyncio.run(run())
