"""API fuzz, short form; an app that answers 500, echoes what it was sent, or forgets to ask for a key is caught."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from tests.faults import api_fuzz
from tests.faults.harness import CI_SEED


def test_no_answer_is_our_fault(tmp_path: Path) -> None:
    tally = api_fuzz.run(12, CI_SEED, tmp_path)
    assert tally.failures == [] and tally.counts["calls"] > 100
    assert tally.counts["searches answered"] > 0 and tally.counts["4xx"] > 20


def careless_app() -> FastAPI:
    app = FastAPI()

    @app.post("/fails")
    async def fails(body: dict[str, int]) -> dict[str, str]:
        if body:
            raise RuntimeError("planted")
        return {}

    @app.post("/echoes")
    async def echoes(request: Request, body: dict[str, str]) -> Response:
        text = '{"detail": "wrong: ' + str(body) + '", "code": "x", "status": 422, "request_id": ""}'
        return Response(text, 422, media_type="application/problem+json")

    @app.get("/secret")
    async def secret() -> dict[str, str]:
        return {"a": "b"}

    return app


@pytest.fixture
def careless() -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(careless_app(), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize(
    ("closed", "said"), [(False, "answered 500"), (False, "X-Request-ID"), (True, "without a key")]
)
def test_planted_bugs_are_caught(tmp_path: Path, careless: str, closed: bool, said: str) -> None:
    tally = api_fuzz.run(10, CI_SEED, tmp_path, url=careless, closed=closed)
    assert [failure for failure in tally.failures if said in failure], tally.failures[:3]


def test_an_echo_is_caught() -> None:
    assert api_fuzz.echoed({"question": ["화면 시안을 같이 고치는 도구", "짧다"]}) == ["화면 시안을 같이 고치는 도구"]
