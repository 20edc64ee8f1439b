"""Backends: which addresses may be called, profiles by setting and by asking, no key in sight."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from lake.errors import SetupError
from serving.answers import ModelCard
from serving.backends import (
    PROFILES,
    Backend,
    backend_from_env,
    backend_to_env,
    check_api_base,
    check_resolved,
    detect_profile,
    fallback_from_env,
    guess_profile,
)
from serving.envfile import parse_env, read_env_file, write_env_file
from serving.targets import champion_id, choose_model, load_targets, save_target, target_backend

ENV = {"LLM_API_BASE": "http://127.0.0.1:1234/v1/", "LLM_MODEL_NAME": "m", "LLM_API_KEY": "secret-key"}


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/v1", "file:///etc/passwd", "gopher://x", "//host/v1", "host:8000/v1", "", "http://", "http:///v1",
        "http://169.254.169.254/latest", "http://[fe80::1]/v1", "http://[fe80::1%25eth0]/v1",
        "http://[::ffff:169.254.169.254]/v1", "http://2852039166/v1", "http://0xa9fea9fe/v1", "http://0251.0376.0251.0376",
        "http://169.254.169.254./v1", "http://0.0.0.0:8000/v1", "http://[::]/v1", "http://224.0.0.1/v1",
        "http://metadata.google.internal/v1", "http://METADATA.google.internal./v1", "http://user:pw@host/v1",
        "http://key@host/v1", "http://host/v1?x=1", "http://host/v1#x", "http://host:0/v1", "http://host:99999/v1",
        "http://[::1/v1", "http://a..b/v1", f"http://{'x' * 70}/v1", "http://exa mple/v1", "http://host/v1 x",
        "http://host/v\x001",
    ],
)  # fmt: skip
def test_addresses_that_must_not_be_called(url: str) -> None:
    with pytest.raises(SetupError):
        check_api_base(url)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1234/v1", "https://api.openai.com/v1", "http://[::1]:8000/v1", "http://10.0.0.7/v1"]
)
def test_addresses_that_may_be_called(url: str) -> None:
    assert check_api_base(url + "/") == url


def test_names_that_resolve_to_link_local_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with pytest.raises(SetupError, match="not permitted"):
        check_resolved(Backend("openai", "http://innocent.example/v1", "m"))


def test_from_env_and_back() -> None:
    backend = backend_from_env({**ENV, "LLM_GENERATION": "7", "LLM_ADAPTER": "a-1"})
    assert backend == Backend("lmstudio", "http://127.0.0.1:1234/v1", "m", "secret-key", 7, "a-1")
    assert backend_from_env(backend_to_env(backend)) == backend
    assert backend_from_env({"OPENAI_BASE_URL": "https://api.openai.com/v1", "OPENAI_MODEL": "g"}).profile == "openai"
    both = backend_from_env({**ENV, "OPENAI_API_BASE": "http://other/v1", "OPENAI_API_KEY": "other"})
    assert both.api_base == "http://127.0.0.1:1234/v1" and both.api_key == "secret-key"


def test_key_is_never_shown() -> None:
    backend = backend_from_env(ENV)
    assert "secret-key" not in repr(backend) and "secret-key" not in str(backend.public())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"LLM_API_BASE": ""}, "LLM_API_BASE is not set"),
        ({"LLM_MODEL_NAME": " "}, "LLM_MODEL_NAME is not set"),
        ({"LLM_PROFILE": "claude"}, "choose one of"),
        ({"LLM_API_KEY": "two words"}, "LLM_API_KEY"),
        ({"LLM_API_KEY": "한글"}, "LLM_API_KEY"),
        ({"LLM_GENERATION": "-1"}, "LLM_GENERATION"),
        ({"LLM_GENERATION": "²"}, "LLM_GENERATION"),
    ],
)
def test_wrong_settings_say_which(change: dict[str, str], says: str) -> None:
    with pytest.raises(SetupError, match=says):
        backend_from_env({**ENV, **change})


def test_profile_by_port() -> None:
    assert guess_profile("http://127.0.0.1:1234/v1") == "lmstudio"
    assert guess_profile("http://gpu:8000/v1") == "vllm"
    assert guess_profile("https://example.com/v1") == "openai"
    assert backend_from_env({**ENV, "LLM_PROFILE": "VLLM"}).profile == "vllm"


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ({"/api/v0/models": {"data": []}}, "lmstudio"),
        ({"/api/version": {"version": "0.9"}}, "ollama"),
        ({"/props": {"default_generation_settings": {}}}, "llamacpp"),
        ({"/version": {"version": "0.32.0"}}, "vllm"),
        ({"/version": ["not an object"]}, None),
        ({}, None),
    ],
)
def test_profile_by_asking(paths: dict[str, Any], expected: str | None) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
        status, body = (200, paths[path]) if path in paths else (404, {})
        data = orjson.dumps(body)
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (status, len(data)) + data)
        await writer.drain()
        writer.close()

    async def run() -> str | None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            return await detect_profile(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")

    assert asyncio.run(run()) == expected


def test_nobody_there_is_no_profile(free_port: Callable[[], int]) -> None:
    assert asyncio.run(detect_profile(f"http://127.0.0.1:{free_port()}/v1", 0.5)) is None


def test_env_files(tmp_path: Path) -> None:
    assert parse_env("# x\n\nexport A=1\nB='two words'\nC=\"x=y\"\nD=\n") == {
        "A": "1", "B": "two words", "C": "x=y", "D": "",
    }  # fmt: skip
    with pytest.raises(SetupError, match="line 2"):
        parse_env("A=1\nnonsense\n")
    with pytest.raises(SetupError, match="MULLE_ENV_FILE"):
        read_env_file(tmp_path / "none")
    with pytest.raises(SetupError, match="one line"):
        write_env_file(tmp_path / "x", {"A": "1\nLLM_API_BASE=http://evil"})
    assert list(tmp_path.iterdir()) == []


def test_targets(tmp_path: Path) -> None:
    assert target_backend(tmp_path, "vllm").api_base == PROFILES["vllm"].api_base
    save_target(tmp_path, "lmstudio", Backend("llamacpp", "http://127.0.0.1:9/v1", "m", "k", 3, "a"))
    assert target_backend(tmp_path, "lmstudio") == Backend("llamacpp", "http://127.0.0.1:9/v1", "m", "k", 0, "a")
    other = target_backend(tmp_path, "lmstudio", api_base="http://127.0.0.1:8/v1")
    assert (other.api_key, other.model) == ("", "")  # a key is never sent to another server than its own
    assert target_backend(tmp_path, "lmstudio", model="n").adapter == ""
    with pytest.raises(SetupError, match="choose one of"):
        target_backend(tmp_path, "nonsense")
    stored = tmp_path / "backends" / "targets.json"
    assert stored.stat().st_mode & 0o777 == 0o600 and set(load_targets(tmp_path)) == {"lmstudio"}
    stored.write_text("{")
    with pytest.raises(SetupError, match="remove it"):
        load_targets(tmp_path)


def test_model_choice(tmp_path: Path) -> None:
    backend = Backend("vllm", "http://127.0.0.1:9/v1", "")
    base, adapter = ModelCard("base"), ModelCard("a-1", parent="base")
    assert choose_model(backend, [base], "").model == "base"
    followed = choose_model(backend, [base, adapter], "a-1")
    assert followed == Backend("vllm", backend.api_base, "a-1", adapter="a-1", follows_champion=True)
    named = choose_model(Backend("vllm", backend.api_base, "a-1"), [base, adapter], "")
    assert named.adapter == "a-1" and not named.follows_champion
    with pytest.raises(SetupError, match="base, a-1"):
        choose_model(backend, [base, adapter], "")
    with pytest.raises(SetupError, match="no champion"):
        choose_model(Backend("vllm", backend.api_base, "champion"), [base], "")
    with pytest.raises(SetupError, match="does not have the champion a-9"):
        choose_model(Backend("vllm", backend.api_base, "champion"), [base, adapter], "a-9")
    assert champion_id(tmp_path) == ""
    (tmp_path / "adapters" / "a-5").mkdir(parents=True)
    (tmp_path / "finetuned_adapter").symlink_to("adapters/a-5")
    assert champion_id(tmp_path) == "a-5"


def test_champion_in_the_environment() -> None:
    followed = backend_from_env({**ENV, "LLM_MODEL_NAME": "champion", "LLM_ADAPTER": "stale"})
    assert followed.follows_champion and followed.adapter == "" and followed.model == "champion"
    settled = replace(followed, model="mulle-x", adapter="x")
    assert backend_to_env(settled)["LLM_MODEL_NAME"] == "champion" and "LLM_ADAPTER" not in backend_to_env(settled)
    assert settled.public()["follows_champion"] is True


def test_fallback_of_the_environment() -> None:
    assert fallback_from_env(ENV) is None
    fallback = {
        "LLM_FALLBACK_API_BASE": "http://127.0.0.1:8102/v1", "LLM_FALLBACK_MODEL_NAME": "base",
        "LLM_FALLBACK_API_KEY": "key-2", "LLM_GENERATION": "3", "OPENAI_MODEL": "of the first",
    }  # fmt: skip
    found = fallback_from_env({**ENV, **fallback})
    assert found == Backend("llamacpp", "http://127.0.0.1:8102/v1", "base", "key-2", 3)
    assert fallback_from_env({**fallback, "LLM_FALLBACK_PROFILE": "vllm"}).profile == "vllm"  # type: ignore[union-attr]
    for change, says in (
        ({"LLM_FALLBACK_MODEL_NAME": ""}, "LLM_FALLBACK_MODEL_NAME is not set"),
        ({"LLM_FALLBACK_API_BASE": "http://169.254.169.254/v1"}, "LLM_FALLBACK_API_BASE"),
        ({"LLM_FALLBACK_PROFILE": "x"}, "LLM_FALLBACK_PROFILE"),
    ):
        with pytest.raises(SetupError, match=says):
            fallback_from_env({**fallback, **change})
