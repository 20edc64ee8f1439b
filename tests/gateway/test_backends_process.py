"""Two real workers: the champion is followed by both under load, the fallback answers for a server that fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from lake.files import swap_symlink
from serving.acks import live_acks
from serving.envfile import write_env_file
from tests.faults.toxic import ANSWER, ToxicServer, run_toxic
from tests.gateway.kit import Gateway, wait_until

pytestmark = pytest.mark.slow
Start = Callable[..., Gateway]
A, B = "a" * 16, "b" * 16
LOAD_A, LOAD_B = f"mulle-{A}-01kb0000000000000000000000", f"mulle-{B}-01kb0000000000000000000000"


@pytest.fixture
def vllm() -> Iterator[ToxicServer]:
    with run_toxic() as server:
        server.models, server.strict = ["base", LOAD_A, LOAD_B], True
        yield server


def point_to(models_dir: Path, adapter_id: str) -> None:
    (models_dir / "adapters" / adapter_id).mkdir(parents=True, exist_ok=True)
    swap_symlink(models_dir / "finetuned_adapter", models_dir / "adapters" / adapter_id)


def search(gateway: Gateway, **body: object) -> httpx.Response:
    """On a new connection, so that any worker may get it."""
    body.setdefault("question", "디자이너 여럿이 화면 시안을 같이 고치는 도구")
    return httpx.post(f"{gateway.url}/api/v1/search", json=body, trust_env=False, timeout=30)


@pytest.mark.parametrize("from_file", [True, False], ids=["env file", "process environment"])
def test_both_workers_follow_the_champion(
    start_gateway: Start, vllm: ToxicServer, tmp_path: Path, from_file: bool
) -> None:
    models_dir = tmp_path / "models"
    point_to(models_dir, A)
    env = {"LLM_API_BASE": vllm.base, "LLM_MODEL_NAME": "champion", "LLM_PROFILE": "vllm"}
    if from_file:
        write_env_file(tmp_path / "gateway.env", env)
        env = {"MULLE_ENV_FILE": str(tmp_path / "gateway.env")}
    gateway = start_gateway({**env, "MULLE_WORKERS": "2"})
    replies: list[httpx.Response] = []
    stop = threading.Event()

    def user() -> None:
        while not stop.is_set():
            replies.append(search(gateway))

    threads = [threading.Thread(target=user) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(replies) >= 10)
        assert replies[0].json()["served_by"]["model"] == LOAD_A and replies[0].json()["served_by"]["adapter"] == A
        point_to(models_dir, B)
        if from_file:
            acks = gateway.data_dir / "run" / "ack"
            wait_until(lambda: [ack.model for ack in live_acks(acks)] == [LOAD_B] * 2)
        time.sleep(1.0)  # promised: within a second in every worker
        first_after = len(replies) + len(threads)  # what is under way may still be the old one's
        wait_until(lambda: len(replies) >= first_after + 20)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert {reply.status_code for reply in replies} == {200}
    assert {reply.json()["served_by"]["model"] for reply in replies[first_after:]} == {LOAD_B}
    assert {asked["model"] for asked in vllm.asked} == {LOAD_A, LOAD_B}
    requests, responses = gateway.journal()
    assert len(requests) == len(responses) == len(replies)


def test_the_fallback_answers_and_says_so(start_gateway: Start, vllm: ToxicServer, tmp_path: Path) -> None:
    with run_toxic() as second:
        env = {
            "LLM_API_BASE": vllm.base, "LLM_MODEL_NAME": "base", "LLM_PROFILE": "vllm",
            "LLM_FALLBACK_API_BASE": second.base, "LLM_FALLBACK_MODEL_NAME": "small",
            "LLM_FALLBACK_PROFILE": "llamacpp", "LLM_FALLBACK_API_KEY": "key-2",
            "MULLE_BREAKER_FAILURES": "2", "MULLE_BREAKER_OPEN_S": "4",
        }  # fmt: skip
        gateway = start_gateway(env)
        assert search(gateway).json()["served_by"]["model"] == "base" and second.asked == []
        vllm.behave("fails_500")
        for _ in range(3):
            body = search(gateway).json()
            assert body["answer"] == "".join(ANSWER) and body["degraded"]
            assert body["served_by"]["backend"] == "llamacpp" and body["served_by"]["model"] == "small"
        ready = httpx.get(f"{gateway.url}/readyz", trust_env=False)
        assert ready.status_code == 200 and ready.json()["circuits"] == {"primary": "open", "fallback": "closed"}
        shown = httpx.get(f"{gateway.url}/api/v1/backend", trust_env=False)
        assert shown.json()["fallback"]["model"] == "small" and "key-2" not in shown.text
        assert shown.json()["circuits"][0]["opened"] == 1 and len(vllm.asked) == 3
        second.behave("refuse")
        wait_until(lambda: search(gateway, allow_degraded=True).json()["answer"] is None)  # only items are left
        vllm.behave("good")
        wait_until(lambda: search(gateway).status_code == 200)  # half open, tried, closed
        assert search(gateway).json()["degraded"] is False
        _, responses = gateway.journal()
        assert {row["backend"] for row in responses.values()} == {"vllm", "llamacpp"}
