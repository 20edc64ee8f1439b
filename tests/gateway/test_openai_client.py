"""OpenAI's own Python client against a gateway process: answers, streams, models and errors as it expects them."""

from __future__ import annotations

from collections.abc import Callable

import openai
import pytest

from tests.gateway.kit import Gateway, Upstream


@pytest.fixture
def client(start_gateway: Callable[..., Gateway], upstream: Upstream) -> openai.OpenAI:
    gateway = start_gateway({"LLM_API_BASE": upstream.base, "LLM_MODEL_NAME": "m", "LLM_PROFILE": "llamacpp"})
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


def test_the_openai_client(client: openai.OpenAI, upstream: Upstream) -> None:
    with client:
        assert [model.id for model in client.models.list()] == ["mulle", "m"]
        ask = {"role": "user", "content": "화상 회의 도구"}
        answer = client.chat.completions.create(model="mulle", messages=[ask], extra_body={"mulle": {"top_k": 2}})  # type: ignore[arg-type]
        assert answer.choices[0].message.content == "answer of model-a" and answer.usage
        assert answer.usage.total_tokens == 10 and answer._request_id == answer.id.removeprefix("chatcmpl-")
        assert len(answer.model_extra["mulle"]["items"]) == 2  # type: ignore[index]
        with client.chat.completions.create(
            model="mulle", messages=[ask], stream=True, stream_options={"include_usage": True}  # type: ignore[arg-type]
        ) as stream:  # fmt: skip
            chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "answer of 화면"
        assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 3
        with pytest.raises(openai.NotFoundError, match="no model of that name") as unknown:
            client.chat.completions.create(model="gpt-4o", messages=[ask])  # type: ignore[arg-type]
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError, match="leave it out"):
            client.chat.completions.create(model="mulle", messages=[ask], stop=["x"])  # type: ignore[arg-type]
        upstream.status = 500
        with pytest.raises(openai.InternalServerError, match="LLM server"):
            client.chat.completions.create(model="mulle", messages=[ask])  # type: ignore[arg-type]
        upstream.status, upstream.break_after = 200, 1
        with pytest.raises(openai.APIError):
            list(client.chat.completions.create(model="mulle", messages=[ask], stream=True))  # type: ignore[arg-type]
