"""A small real index, a stub LLM server, and real gateways in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.access_settings import AccessSettings
from gateway.parts import Config
from gateway.settings import GatewaySettings
from lake.settings import LakeSettings
from serving.encoders import load_encoder
from serving.index import build_index
from serving.prompting import PromptSettings
from serving.retrieval_settings import RetrievalSettings
from serving.settings import ServingSettings
from tests.gateway.kit import ROOT, TOOL_IDS, Gateway, Upstream, run_upstream, sample_tools, wait_until


@pytest.fixture(scope="session")
def index_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index over ten sample tools, made with the bundled encoder."""
    folder = tmp_path_factory.mktemp("index")
    build_index(sample_tools(TOOL_IDS), "test-catalog", load_encoder(), folder)
    return folder


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with run_upstream("model-a") as state:
        yield state


@pytest.fixture
def start_gateway(tmp_path: Path, index_dir: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts `python -m gateway` on a free port, waits until it answers; every one is stopped at the end."""
    running: list[Gateway] = []

    def start(env: dict[str, str], data_dir: Path | None = None, wait_ready: bool = True) -> Gateway:
        folder = data_dir or tmp_path / "data"
        folder.mkdir(exist_ok=True)
        if not (folder / "index").exists():
            (folder / "index").symlink_to(index_dir)
        log = (tmp_path / "gateway.log").open("a")
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway"],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"], "MULLE_PORT": "0", "MULLE_DATA_DIR": str(folder),
                "MULLE_MODELS_DIR": str(tmp_path / "models"), "PYTHONUNBUFFERED": "1", **env,
            },
            stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        log.close()
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "listening on" in line, (tmp_path / "gateway.log").read_text()
        gateway = Gateway(process, line.rsplit(" ", 1)[-1].strip(), folder)
        running.append(gateway)
        if wait_ready:
            wait_until(lambda: httpx.get(f"{gateway.url}/readyz", trust_env=False).status_code == 200)
        return gateway

    yield start
    for gateway in running:
        if gateway.process.poll() is None:
            gateway.process.kill()
        gateway.process.wait(10)
        if gateway.process.stdout is not None:
            gateway.process.stdout.close()


@pytest.fixture
def make_config(tmp_path: Path, index_dir: Path, upstream: Upstream) -> Callable[..., Config]:
    def make(access: dict[str, Any] | None = None, **gateway: Any) -> Config:
        (tmp_path / "data").mkdir(exist_ok=True)
        if not (tmp_path / "data" / "index").exists():
            (tmp_path / "data" / "index").symlink_to(index_dir)
        llm = {"LLM_API_BASE": upstream.base, "LLM_MODEL_NAME": "m", "LLM_PROFILE": "llamacpp"}
        return Config(
            gateway=GatewaySettings(**gateway),
            lake=LakeSettings(data_dir=tmp_path / "data", models_dir=tmp_path / "models"),
            serving=ServingSettings(),
            retrieval=RetrievalSettings(),
            prompt=PromptSettings(),
            llm=llm,
            access=AccessSettings(**(access or {})),
        )

    return make
