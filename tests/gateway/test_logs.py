"""Log lines of a gateway process: JSON each, with ids and worker, one a request, and nobody's words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import orjson

from tests.gateway.kit import PATH, Gateway, Upstream

QUESTION = "비밀스러운 화상 회의 도구"


def test_lines(start_gateway: Callable[..., Gateway], upstream: Upstream, tmp_path: Path) -> None:
    gateway = start_gateway({"LLM_API_BASE": upstream.base, "LLM_MODEL_NAME": "m", "LLM_PROFILE": "llamacpp"})
    reply = httpx.post(f"{gateway.url}{PATH}", json={"question": QUESTION}, trust_env=False)
    missing = httpx.get(f"{gateway.url}/nothing", trust_env=False)
    upstream.status = 500
    failed = httpx.post(f"{gateway.url}{PATH}", json={"question": QUESTION}, trust_env=False)
    assert (reply.status_code, missing.status_code, failed.status_code) == (200, 404, 502)
    assert gateway.stop() == 0
    text = (tmp_path / "gateway.log").read_text()
    assert QUESTION not in text and "answer of" not in text
    lines = [orjson.loads(line) for line in text.splitlines()]
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)

    def of(response: httpx.Response) -> list[dict[str, object]]:
        return [line for line in lines if line.get("request_id") == response.headers["x-request-id"]]

    (answered,) = of(reply)
    assert answered["event"] == "search" and answered["outcome"] == "answered" and answered["model"] == "m"
    assert answered["worker"] == 0 and answered["trace_id"] == reply.headers["traceparent"].split("-")[1]
    (unknown,) = of(missing)
    assert unknown["event"] == "http" and unknown["status"] == 404 and unknown["route"] == "none"
    assert {line["event"] for line in of(failed)} == {"search", "http", "refused"}
