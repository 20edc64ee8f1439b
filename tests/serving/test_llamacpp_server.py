"""The real llama.cpp server on the real base: same token ids as in training, greedy, and clear endings."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from lake.errors import ModelMissingError
from serving import processes
from serving.base_models import BaseModel
from serving.llamacpp_server import argument_vector, check_model

KEY = "llama-key"
QUESTION = "질문: 협업  도구 추천해줘 (Jira 말고)\n\n관련 정보:\n1. Notion - 팀 문서. https://notion.so\n\n답변: "


@pytest.fixture(scope="module")
def server(real_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    run_dir = tmp_path_factory.mktemp("run")
    port = processes.free_port()
    argv = argument_vector(Path(sys.executable), real_base.gguf_path, "base", port, 512, 2, 2, "MY_LLAMA_KEY")
    assert KEY not in " ".join(argv)
    env = {**os.environ, "MY_LLAMA_KEY": KEY}
    processes.start("llamacpp", argv, env, run_dir, run_dir / "log", f"http://127.0.0.1:{port}/health", 90)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=60,
            trust_env=False,
        ) as client:
            yield client
    finally:
        processes.stop("llamacpp", run_dir)


def _chat(client: httpx.Client, text: str, max_tokens: int = 12) -> dict[str, Any]:
    body = {"model": "base", "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_answers_are_greedy_and_repeat(server: httpx.Client) -> None:
    """Alone, again, and beside another request: the same words, without any sampling setting in the request."""
    first = _chat(server, QUESTION)
    assert first["usage"]["completion_tokens"] > 0 and first["choices"][0]["message"]["content"]
    assert _chat(server, QUESTION)["choices"][0]["message"] == first["choices"][0]["message"]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda text: _chat(server, text), [QUESTION, "What is Git? Answer in English."]))
    assert together[0]["choices"][0]["message"] == first["choices"][0]["message"]


def test_model_name_and_key(server: httpx.Client) -> None:
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == ["base"]
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    anonymous = httpx.post(f"{server.base_url}/v1/chat/completions", json=body, trust_env=False, timeout=30)
    assert anonymous.status_code == 401


def test_context_is_per_request(server: httpx.Client) -> None:
    """512 tokens for each of two slots; a longer prompt is refused, not cut."""
    body = {"messages": [{"role": "user", "content": "가나다 " * 600}], "max_tokens": 1}
    response = server.post("/v1/chat/completions", json=body)
    assert response.status_code == 400 and "context" in response.text
    assert _chat(server, "라마바 " * 130, 1)["usage"]["prompt_tokens"] > 256


def test_template_and_tokens_are_those_of_training(server: httpx.Client, real_base: BaseModel) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(real_base.hf_dir)
    messages = [{"role": "user", "content": QUESTION}]
    want = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert want[0] == real_base.bos_token_id == 2 and want.count(2) == 1

    prompt = server.post("/apply-template", json={"messages": messages}).json()["prompt"]
    assert text == "<bos>" + prompt.removeprefix("<bos>")
    body = {"content": prompt.removeprefix("<bos>"), "add_special": True, "parse_special": True}
    assert server.post("/tokenize", json=body).json()["tokens"] == want
    assert _chat(server, QUESTION, 1)["usage"]["prompt_tokens"] == len(want)


def _run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "serving.llamacpp_server", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env={**os.environ, **env})


def test_a_port_in_use_is_one_line_and_its_exit_code(real_base: BaseModel) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = _run("--model", str(real_base.gguf_path), "--alias", "x", "--port", str(port))
    assert done.returncode == 78
    assert (
        done.stderr.strip().startswith(f"error: Port {port} on 127.0.0.1 is in use") and "\n" not in done.stderr.strip()
    )


def test_missing_and_broken_models_are_one_line(tmp_path: Path, real_base: BaseModel) -> None:
    with pytest.raises(ModelMissingError, match="can't be read"):
        check_model(tmp_path / "none.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelMissingError, match="not a GGUF"):
        check_model(broken)
    with real_base.gguf_path.open("rb") as handle:  # right magic, cut off within the tensors
        broken.write_bytes(handle.read(20_000_000))
    done = _run("--model", str(broken), "--alias", "x", "--port", str(processes.free_port()))
    assert done.returncode == 78, done.stderr
    # beside llama.cpp's own lines, which come from its threads
    assert [line for line in done.stderr.splitlines() if line.startswith("error: llama.cpp can't load")], done.stderr
    empty = _run("--model", str(real_base.gguf_path), "--alias", "x", "--port", str(processes.free_port()),
                 "--api-key-env", "NO_SUCH_KEY")  # fmt: skip
    assert empty.returncode == 78 and "NO_SUCH_KEY is empty" in empty.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_on_a_signal(real_base: BaseModel, tmp_path: Path, number: signal.Signals) -> None:
    argv = argument_vector(Path(sys.executable), real_base.gguf_path, "x", processes.free_port(), 256, 1, 1)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        try:
            assert "x is ready at http://127.0.0.1:" in child.stdout.readline()
            child.send_signal(number)
            assert child.wait(20) == 0
        finally:
            child.kill()
