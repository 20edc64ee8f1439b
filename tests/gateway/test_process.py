"""A real gateway process over a stub LLM: answers are journalled first, switches and SIGTERM drop nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import orjson
import pytest

from serving.acks import live_acks
from serving.backends import Backend
from serving.envfile import read_env_file, write_env_file
from serving.switch import switch_backend
from tests.gateway.kit import ROOT, Gateway, Upstream, run_upstream, wait_until

pytestmark = pytest.mark.slow  # every test starts a process that loads the Korean model
Start = Callable[..., Gateway]
QUESTION = "디자이너 여럿이 화면 시안을 같이 고치는 도구"


def ask(gateway: Gateway, **body: object) -> httpx.Response:
    body.setdefault("question", QUESTION)
    return httpx.post(f"{gateway.url}/api/v1/search", json=body, trust_env=False, timeout=30)


def llm_env(upstream: Upstream, **more: str) -> dict[str, str]:
    return {"LLM_API_BASE": upstream.base, "LLM_MODEL_NAME": upstream.name, "LLM_PROFILE": "vllm", **more}


def test_answer_is_whole_and_journalled(start_gateway: Start, upstream: Upstream) -> None:
    gateway = start_gateway(llm_env(upstream, LLM_API_KEY="key-1", LLM_ADAPTER="adapter-7"))
    reply = ask(gateway, top_k=2, session_id="s-1")
    assert reply.status_code == 200
    body = reply.json()
    assert reply.headers["x-request-id"] == body["request_id"]
    assert body["answer"] == "answer of model-a" and body["degraded"] is False
    assert [item["rank"] for item in body["items"]] == [1, 2]
    assert body["items"][0]["id"] == "figma"
    assert set(body["items"][0]["scores"]) == {"dense", "lexical", "rerank"}
    assert body["served_by"] == {
        "backend": "vllm",
        "model": "model-a",
        "adapter": "adapter-7",
        "generation": 0,
    }
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 3}
    assert set(body["latency_ms"]) == {"embed", "retrieve", "rerank", "prompt", "llm", "total"}
    # Read while the gateway runs: what was answered is already on disk.
    requests, responses = gateway.journal()
    first, second = requests[body["request_id"]], responses[body["request_id"]]
    assert first["user_query"] == QUESTION and first["session_id"] == "s-1" and first["top_k"] == 2
    assert [item["id"] for item in first["retrieved_items"]] == [item["id"] for item in body["items"]]
    assert first["retrieved_items"][0]["chunk_text"]
    assert second["outcome"] == "answered" and second["llm_response_content"] == body["answer"]
    assert second["adapter"] == "adapter-7" and second["request_seq"] > 0
    assert upstream.auth == ["Bearer key-1"]
    assert upstream.seen[0]["messages"][0]["content"].startswith(f"질문: {QUESTION}\n\n관련 정보:\n")
    assert upstream.seen[0]["temperature"] == 0.0 and upstream.seen[0]["max_tokens"] == 160
    shown = httpx.get(f"{gateway.url}/api/v1/backend", trust_env=False).text
    assert "key-1" not in shown and "model-a" in shown
    assert gateway.stop() == 0


def test_llm_down_is_a_problem_or_a_degraded_answer(start_gateway: Start, upstream: Upstream) -> None:
    gateway = start_gateway(llm_env(upstream))
    upstream.status = 500
    reply = ask(gateway)
    assert reply.status_code == 502 and reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["code"] == "llm_unavailable" and problem["request_id"] == reply.headers["x-request-id"]
    degraded = ask(gateway, allow_degraded=True)
    assert degraded.status_code == 200
    assert degraded.json()["degraded"] is True and degraded.json()["answer"] is None and degraded.json()["items"]
    upstream.status = 429
    assert ask(gateway).status_code == 503
    requests, responses = gateway.journal()
    assert len(requests) == len(responses) == 3
    assert {row["outcome"] for row in responses.values()} == {"llm_error"}
    assert all(row["error"] for row in responses.values())


def test_slow_llm_ends_by_its_time_limit(start_gateway: Start, upstream: Upstream) -> None:
    gateway = start_gateway(llm_env(upstream, MULLE_LLM_TIMEOUT_S="0.3"))
    upstream.delay_s = 5.0
    start = time.monotonic()
    reply = ask(gateway)
    assert reply.status_code == 504 and reply.json()["code"] == "llm_timeout"
    assert time.monotonic() - start < 2.5
    _, responses = gateway.journal()
    assert [row["outcome"] for row in responses.values()] == ["llm_timeout"]


def test_client_that_leaves_is_journalled(start_gateway: Start, upstream: Upstream) -> None:
    gateway = start_gateway(llm_env(upstream))
    upstream.delay_s = 0.5
    host, port = gateway.url.removeprefix("http://").split(":")
    body = orjson.dumps({"question": QUESTION})
    with socket.create_connection((host, int(port))) as raw:
        head = f"POST /api/v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}"
        head += "\r\ncontent-type: application/json"
        raw.sendall(head.encode() + b"\r\n\r\n" + body)
        wait_until(lambda: bool(upstream.seen))
    wait_until(lambda: len(gateway.journal()[1]) == 1)
    row = next(iter(gateway.journal()[1].values()))
    assert row["outcome"] == "client_gone" and row["llm_response_content"] == "answer of model-a"


def test_switch_under_load_drops_nothing(start_gateway: Start, upstream: Upstream, tmp_path: Path) -> None:
    env_file, ack_dir = tmp_path / "gateway.env", tmp_path / "data" / "run" / "ack"
    write_env_file(env_file, llm_env(upstream))
    upstream.delay_s = 0.15
    with run_upstream("model-b", 0.15) as other:
        gateway = start_gateway({"MULLE_ENV_FILE": str(env_file), "MULLE_BACKEND_POLL_S": "0.1"})
        replies: list[httpx.Response] = []

        async def load() -> None:
            async with httpx.AsyncClient(trust_env=False, timeout=30) as client:

                async def user() -> None:
                    for _ in range(12):
                        reply = await client.post(f"{gateway.url}/api/v1/search", json={"question": QUESTION})
                        replies.append(reply)

                users = [asyncio.create_task(user()) for _ in range(4)]
                await asyncio.sleep(0.4)
                report = await switch_backend(Backend("lmstudio", other.base, "model-b"), env_file, ack_dir)
                assert report.workers == 1 and report.backend.generation == 1
                first_after = await client.post(f"{gateway.url}/api/v1/search", json={"question": QUESTION})
                assert first_after.json()["served_by"]["model"] == "model-b"
                await asyncio.gather(*users)

        asyncio.run(load())
        assert [reply.status_code for reply in replies] == [200] * 48
        answers = {reply.json()["answer"] for reply in replies}
        assert answers == {"answer of model-a", "answer of model-b"}
        for reply in replies:  # nobody was answered by one backend and labelled with the other
            assert reply.json()["answer"] == f"answer of {reply.json()['served_by']['model']}"
        _, responses = gateway.journal()
        assert {row["outcome"] for row in responses.values()} == {"answered"} and len(responses) == 49
        assert gateway.stop() == 0
    assert live_acks(ack_dir) == []


def test_refused_env_file_keeps_the_old_backend(start_gateway: Start, upstream: Upstream, tmp_path: Path) -> None:
    env_file = tmp_path / "gateway.env"
    write_env_file(env_file, llm_env(upstream))
    gateway = start_gateway({"MULLE_ENV_FILE": str(env_file), "MULLE_BACKEND_POLL_S": "60"})
    write_env_file(
        env_file, {"LLM_API_BASE": "http://169.254.169.254/v1", "LLM_MODEL_NAME": "x", "LLM_GENERATION": "9"}
    )
    gateway.process.send_signal(signal.SIGHUP)  # the poll is too slow to notice: the signal has to do it
    acks = gateway.data_dir / "run" / "ack"
    wait_until(lambda: live_acks(acks)[0].generation == 9)
    assert not live_acks(acks)[0].ok and "link-local" in live_acks(acks)[0].reason
    assert ask(gateway).json()["served_by"]["model"] == "model-a"
    gateway.stop()
    gateway = start_gateway({"MULLE_ENV_FILE": str(env_file), "MULLE_BACKEND_POLL_S": "0.1"}, wait_ready=False)
    wait_until(lambda: httpx.get(f"{gateway.url}/readyz", trust_env=False).status_code == 503)
    assert "link-local" in httpx.get(f"{gateway.url}/readyz", trust_env=False).json()["reasons"]["backend"]
    write_env_file(env_file, llm_env(upstream))
    wait_until(lambda: httpx.get(f"{gateway.url}/readyz", trust_env=False).status_code == 200)
    write_env_file(env_file, {"LLM_API_BASE": "ftp://x", "LLM_MODEL_NAME": "x", "LLM_GENERATION": "12"})
    wait_until(lambda: not live_acks(gateway.data_dir / "run" / "ack")[0].ok)
    assert live_acks(gateway.data_dir / "run" / "ack")[0].generation == 12
    assert ask(gateway).json()["served_by"]["model"] == "model-a"


def test_sigterm_finishes_what_was_begun(start_gateway: Start, upstream: Upstream) -> None:
    gateway = start_gateway(llm_env(upstream))
    upstream.delay_s = 1.0
    replies: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: replies.append(ask(gateway))) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(upstream.seen) == 3)
    assert gateway.stop() == 0
    for thread in threads:
        thread.join(5)
    assert [reply.status_code for reply in replies] == [200, 200, 200]
    _, responses = gateway.journal()
    assert sorted(responses) == sorted(reply.json()["request_id"] for reply in replies)


def test_port_in_use_is_one_line_and_a_code(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        env = {"PATH": os.environ["PATH"], "MULLE_PORT": str(port), "MULLE_DATA_DIR": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "gateway"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1 and f"Port {port}" in done.stderr and "MULLE_PORT" in done.stderr


def test_wrong_setting_is_one_line(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "MULLE_MAX_IN_FLIGHT": "none", "MULLE_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 78 and "MULLE_MAX_IN_FLIGHT" in done.stderr and "Traceback" not in done.stderr


def test_unusable_run_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "workers").touch()  # a file where a folder belongs
    env = {"PATH": os.environ["PATH"], "MULLE_PORT": "0", "MULLE_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "gateway"], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 78 and "Traceback" not in done.stderr
    assert [line for line in done.stderr.splitlines() if "run/workers" in line and line.startswith("error: ")]


def test_no_index_is_said_by_readiness(start_gateway: Start, upstream: Upstream, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    (folder / "index").mkdir(parents=True)
    gateway = start_gateway(llm_env(upstream), data_dir=folder, wait_ready=False)
    ready = httpx.get(f"{gateway.url}/readyz", trust_env=False)
    assert ready.status_code == 503 and "flows.index" in ready.json()["reasons"]["index"]
    assert httpx.get(f"{gateway.url}/livez", trust_env=False).status_code == 200
    assert ask(gateway).json()["code"] == "not_ready"


def test_gateway_needs_no_torch(index_dir: Path, tmp_path: Path) -> None:
    """The bundled encoder, the index and the whole app without torch, transformers or sentence-transformers."""
    (tmp_path / "index").symlink_to(index_dir)
    code = """
import sys
from gateway.worker import read_config
from gateway.app import create_app
from gateway.parts import Parts
parts = Parts(read_config())
create_app(read_config(), parts)
assert parts.retrievers.current is not None, parts.retrievers.reason
assert parts.retrievers.current.search("docker container").items
parts.journal.close()
heavy = {"torch", "transformers", "sentence_transformers", "sklearn", "trl", "peft", "prefect"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
    env = {
        "PATH": os.environ["PATH"],
        "MULLE_DATA_DIR": str(tmp_path),
        "MULLE_MODELS_DIR": str(tmp_path / "models"),
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_env_file_roundtrip_is_private(tmp_path: Path) -> None:
    path = tmp_path / "gateway.env"
    write_env_file(path, {"LLM_API_KEY": "geheim#=' x", "OTHER": "1"})
    assert read_env_file(path) == {"LLM_API_KEY": "geheim#=' x", "OTHER": "1"}
    assert path.stat().st_mode & 0o777 == 0o600
