"""The running system on one machine: Prefect, its worker, llama.cpp (LM Studio's engine), the gateway, vLLM.

Starts each as a detached process known to `data/run/` (serving/processes.py), on loopback, on the ports of the
settings, and waits until it answers. Invariant: `stop_all` ends everything that any run of Mulle has started
here, whoever started it (the demo, `make up`, or a flow that needed vLLM).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from flows.steps.moves import GatewayAt
from lake.errors import SetupError
from lake.registry import Registry
from lake.settings import LakeSettings
from serving import llamacpp_server, processes
from serving.adapters import load_adapter, new_adapter_name
from serving.backends import Backend
from serving.base_models import load_base
from serving.processes import ProcessRecord
from serving.settings import ServingSettings
from serving.vllm_server import build_launch

WORK_POOL = "mulle"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Ports:
    """TCP ports on loopback."""

    prefect: int
    gateway: int
    llamacpp: int
    llamacpp_tuned: int
    vllm: int

    @staticmethod
    def free() -> Ports:
        """Five different ports that were free a moment ago."""
        found: list[int] = []
        while len(found) < 5:
            port = processes.free_port()
            if port not in found:
                found.append(port)
        return Ports(*found)


@dataclass(frozen=True)
class Stack:
    """`environ` is what every child gets, with the settings and ports of this stack laid over it."""

    lake: LakeSettings
    serving: ServingSettings
    ports: Ports
    environ: Mapping[str, str]
    say: Say = field(default=print)

    @property
    def gateway_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.gateway}"

    @property
    def prefect_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.prefect}"

    @property
    def llamacpp_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.llamacpp}/v1"

    @property
    def llamacpp_tuned_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.llamacpp_tuned}/v1"

    @property
    def vllm_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.vllm}/v1"

    @property
    def env_file(self) -> Path:
        """The file that alone supplies LLM_* to the gateway; rewriting it is the switch."""
        return self.lake.run_dir / "gateway.env"

    @property
    def gateway(self) -> GatewayAt:
        """Where the gateway answers, for whoever moves it to another backend."""
        return GatewayAt(self.gateway_url, self.env_file, self.lake.run_dir)

    @property
    def child_env(self) -> dict[str, str]:
        """Environment of every child: absolute folders, so that a child's own folder does not matter."""
        own = {
            "MULLE_DATA_DIR": str(self.lake.data_dir.resolve()),
            "MULLE_MODELS_DIR": str(self.lake.models_dir.resolve()),
            "MULLE_VLLM_PORT": str(self.ports.vllm),
            "MULLE_LLAMACPP_PORT": str(self.ports.llamacpp),
            "MULLE_LLAMACPP_TUNED_PORT": str(self.ports.llamacpp_tuned),
            "MULLE_PORT": str(self.ports.gateway),
            "MULLE_LLAMACPP_SLOTS": str(self.serving.llamacpp_slots),
            "MULLE_ENV_FILE": str(self.env_file.resolve()),
            "PREFECT_HOME": str(self.lake.prefect_dir.resolve()),
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_CLI_COLORS": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "2",  # the default of 10 is most of a short run
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }
        return {**self.environ, **own}

    def _start(
        self, name: str, argv: list[str], env: Mapping[str, str], health: str | None, timeout_s: float
    ) -> ProcessRecord:
        def note(waited_s: float, line: str) -> None:
            if int(waited_s) % 10 == 0:
                self.say(f"  {name}: starting, {waited_s:.0f} s")

        record = processes.start(
            name,
            argv,
            env,
            self.lake.run_dir,
            self.lake.run_dir / f"{name}.log",
            health,
            timeout_s,
            note,
        )
        self.say(f"  {name}: ready (pid {record.pid})")
        return record

    def start_prefect(self) -> None:
        """Server (SQLite), work pool, every deployment of prefect.yaml, a process worker."""
        python = sys.executable
        env = self.child_env
        self.lake.prefect_dir.mkdir(parents=True, exist_ok=True)
        argv = [python, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
        argv += ["--port", str(self.ports.prefect)]
        self._start("prefect-server", argv, env, f"{self.prefect_url}/api/health", 120)
        self.prefect("work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
        self.prefect("--no-prompt", "deploy", "--all")
        worker = [python, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process"]
        self._start("prefect-worker", worker, env, None, 60)

    def prefect(self, *words: str) -> str:
        """Run one `prefect` command to its end; raises `SetupError` with its last lines when it fails."""
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *words], env=self.child_env, capture_output=True, text=True, timeout=180
        )
        if done.returncode:
            tail = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-8:])
            raise SetupError(f"`prefect {' '.join(words)}` ended with {done.returncode}:\n  {tail}")
        return done.stdout

    def run_deployment(self, name: str, parameters: Mapping[str, Any]) -> None:
        """`prefect deployment run NAME --watch`, its output in the log; raises `SetupError` when the run fails."""
        argv = [sys.executable, "-m", "prefect", "deployment", "run", name, "--watch", "--watch-interval", "2"]
        argv += ["--params", orjson.dumps(parameters).decode()]
        log = self.lake.run_dir / f"{name.replace('/', '-')}.log"
        with log.open("ab") as out:
            done = subprocess.run(argv, env=self.child_env, stdout=out, stderr=subprocess.STDOUT)
        if done.returncode:
            worker = self.lake.run_dir / "prefect-worker.log"
            reason = "\n  ".join(processes.tail(worker, 15))
            raise SetupError(f"The run of {name} failed ({log}); the worker's last lines, from {worker}:\n  {reason}")

    def run_folder(self, run_id: str) -> Path:
        """Where a run's stage records lie."""
        return self.lake.data_dir / "runs" / run_id

    def start_llamacpp(self, name: str, model: Path, alias: str, port: int) -> None:
        """One llama.cpp server for one GGUF under one model name."""
        argv = llamacpp_server.argument_vector(
            Path(sys.executable),
            model,
            alias,
            port,
            self.serving.llamacpp_context_tokens,
            self.serving.llamacpp_slots,
            self.serving.llamacpp_threads,
        )
        self._start(name, argv, self.child_env, f"http://127.0.0.1:{port}/health", 60)

    def start_llamacpp_base(self) -> str:
        """The base model, as LM Studio would serve it; returns the model's name."""
        base = load_base(self.lake.models_dir, self.serving.base_name)
        self.start_llamacpp("llamacpp-base", base.gguf_path, base.name, self.ports.llamacpp)
        return base.name

    def newest_gguf(self, adapter_id: str) -> Path | None:
        """The GGUF of an adapter that was exported last, or None where there is none."""
        files = (self.lake.gguf_dir / adapter_id).glob("*.gguf")
        return max(files, key=lambda path: path.stat().st_mtime_ns, default=None)

    def start_gateway(self) -> None:
        """The gateway on its port; it reads `LLM_*` from `env_file`."""
        argv = [sys.executable, "-m", "gateway"]
        self._start("gateway", argv, self.child_env, f"{self.gateway_url}/readyz", 60)

    def ensure_vllm(self) -> str:
        """vLLM with the base and LoRA slots; started when nothing of ours serves there yet. Returns its /v1 URL."""
        record = processes.read_record(self.lake.run_dir, "vllm")
        if record is not None and processes.is_alive(record):
            return f"http://127.0.0.1:{record.port}/v1"
        base = load_base(self.lake.models_dir, self.serving.base_name)
        launch = build_launch(self.serving, base, self.child_env, self.lake.run_dir, self.ports.vllm)
        health = f"http://127.0.0.1:{self.ports.vllm}/health"
        self._start("vllm", launch.argv, launch.env, health, self.serving.vllm_start_timeout_s)
        return self.vllm_url

    def stop(self, name: str) -> None:
        """Stop one of them; nothing happens when it does not run."""
        processes.stop(name, self.lake.run_dir)

    def stop_all(self) -> list[str]:
        """Stop everything recorded in `data/run/`, the last started first."""
        return processes.stop_all(self.lake.run_dir)

    def serve_champion(self) -> Backend:
        """vLLM with the adapter in service loaded under a new name. Raises `AdapterError` where it is damaged."""
        registry = Registry(self.lake.models_dir)
        entry = registry.champion()
        if entry is None:
            raise SetupError("There is no adapter in service yet: turn the wheel first.")
        registry.verify(entry.adapter_id)
        url = self.ensure_vllm()
        key = self.serving.vllm_api_key.get_secret_value()
        name = new_adapter_name(entry.adapter_id)
        asyncio.run(load_adapter(url, key, name, entry.path.resolve()))
        return Backend("vllm", url, name, key, adapter=entry.adapter_id)
