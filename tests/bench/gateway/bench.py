"""What the gateway adds to a call of the model: `make bench NAME=gateway BENCH_ARGS="--rounds 5 -- --peers"`.

Every server stands before the same stub model on loopback and is asked by the same load, in turn, on the same core
(see `processes.py`). `direct` is the stub itself: what remains of a latency without it is what a server added. The
gateway retrieves without embedding or searching (`subject.py`); all else in it is real, the journal on this disk too.
`--peers` installs LiteLLM and vllm-router below `.bench/` first; a peer that is not there is said and left out, and
`--no-peers` leaves both out.
`--seconds`: length of one measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from lake.errors import SetupError
from tests.bench.gateway.processes import (
    ROOT,
    cores,
    free_port,
    make_peer,
    measured,
    module,
    peer_program,
    running,
)
from tests.bench.run import Figure, interleaved

_QUESTION = "여러 명이 화면 시안을 같이 고칠 수 있는 도구 있을까요? %06d"
_RECORD_BYTES = 4096  # of one request, both halves (2.9 KB with three sample tools)
_PEERS = {"litellm": "litellm", "vllm_router": "vllm-router"}


@dataclass(frozen=True, slots=True)
class Arm:
    """A server under load: where it is asked and what."""

    url: str
    body: bytes


def _prompt() -> str:
    """As long as the gateway's own prompt with three sample tools."""
    return (
        f"질문: {_QUESTION}\n\n관련 정보:\n" + "1. Figma (design) - 여러 명이 함께 쓰는 화면 디자인 도구입니다.\n" * 9
    )


class Stand:
    """The running servers by name, and how one measurement of one of them is made."""

    def __init__(self, folder: Path, seconds: float, stack: contextlib.ExitStack) -> None:
        self.arms: dict[str, Arm] = {}
        self.folder = folder
        self._seconds = seconds
        self._stack = stack
        self._server_core, self._load_core = cores()
        port = free_port()
        self.stub = f"http://127.0.0.1:{port}/v1"
        self._start("stub", module("stub", port), self._load_core, f"{self.stub}/models", {})
        self._chat("direct", port)

    def _start(self, name: str, command: Sequence[str], core: int, ready: str, env: dict[str, str]) -> None:
        self._stack.enter_context(running(command, core, ready, self.folder / f"{name}.log", env))

    def _chat(self, name: str, port: int) -> None:
        asked = {"model": "stub", "messages": [{"role": "user", "content": _prompt()}], "max_tokens": 160}
        self.arms[name] = Arm(f"http://127.0.0.1:{port}/v1/chat/completions", orjson.dumps(asked))

    def add_gateway(self, name: str, journal: str) -> None:
        """Our gateway; `journal`: off, sync or group."""
        port, data = free_port(), self.folder / name
        data.mkdir()
        env = {
            "MULLE_DATA_DIR": str(data), "MULLE_MODELS_DIR": str(ROOT / "models"),
            "MULLE_JOURNAL_MODE": "group" if journal == "group" else "sync",
            "LLM_API_BASE": self.stub, "LLM_MODEL_NAME": "stub", "LLM_PROFILE": "vllm",
        }  # fmt: skip
        ready = f"http://127.0.0.1:{port}/readyz"
        self._start(name, module("subject", port, journal), self._server_core, ready, env)
        self.arms[name] = Arm(f"http://127.0.0.1:{port}/api/v1/search", orjson.dumps({"question": _QUESTION}))

    def add_passthrough(self) -> None:
        """FastAPI with httpx over aiohttp."""
        port = free_port()
        command = module("passthrough", self.stub, port)
        self._start("pass-through", command, self._server_core, f"http://127.0.0.1:{port}/openapi.json", {})
        self._chat("pass-through", port)

    def add_peer(self, name: str, program: Path) -> None:
        """LiteLLM's proxy or vllm-router, one worker, with what it does by default."""
        port = free_port()
        if name == "litellm":
            config = self.folder / "litellm.yaml"
            config.write_bytes(
                orjson.dumps(  # JSON is YAML
                    {
                        "model_list": [
                            {
                                "model_name": "stub",
                                "litellm_params": {"model": "openai/stub", "api_base": self.stub, "api_key": "none"},
                            }
                        ]
                    }
                )
            )
            command = [str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
            ready = f"http://127.0.0.1:{port}/health/liveliness"
            env = {
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_LOG": "ERROR",
                "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # nothing else listens; less work for it
            }
        else:
            command = [
                str(program), "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin",
                "--worker-urls", self.stub.removesuffix("/v1"), "--prometheus-port", str(free_port()),
                "--log-level", "warning",
            ]  # fmt: skip
            ready, env = f"http://127.0.0.1:{port}/health", {}
        self._start(name, command, self._server_core, ready, env)
        self._chat(name, port)

    def load(self, name: str, connections: int, figure: str) -> Callable[[], float]:
        """One measurement: `figure` is p50_ms or per_s. Raises `SetupError` where an answer was not 200."""
        arm = self.arms[name]

        def measure() -> float:
            command = module("load", arm.url, arm.body.decode(), connections, self._seconds)
            seen = orjson.loads(measured(command, self._load_core))
            if seen["errors"] or not seen["requests"]:
                raise SetupError(f"{name}: {seen['errors']} of {seen['requests']} failed: {seen['first_error']}")
            return float(seen[figure])

        return measure

    def bare_sync(self) -> float:
        """Median of one fdatasync on the disk of the journals, milliseconds."""
        command = module("bare_sync", self.folder, _RECORD_BYTES, self._seconds)
        return float(measured(command, self._server_core))


def figures(rounds: int, arguments: Sequence[str]) -> Iterable[Figure]:
    """Latency at 1 connection, requests per second at 16 and 64, and the ratios that have a goal."""
    parser = argparse.ArgumentParser(prog="gateway")
    peers = parser.add_mutually_exclusive_group()
    peers.add_argument("--peers", action="store_true", help="install LiteLLM and vllm-router below .bench/ first")
    peers.add_argument("--no-peers", action="store_true", help="leave them out, installed or not")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement, seconds")
    options = parser.parse_args(list(arguments))
    if options.peers:
        for name in _PEERS:
            make_peer(name)
    scratch = ROOT / ".bench"
    scratch.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="gateway-", dir=scratch))
    try:
        with contextlib.ExitStack() as stack:
            stand = Stand(folder, options.seconds, stack)
            stand.add_passthrough()
            stand.add_gateway("journal off", "off")
            stand.add_gateway("sync", "sync")
            for name, program in ({} if options.no_peers else _PEERS).items():
                found = peer_program(name, program)
                if found is None:
                    print(f"peer {name} is not installed and left out: add `--peers`.", file=sys.stderr)
                else:
                    stand.add_peer(name, found)
            return _figures(stand, rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _figures(stand: Stand, rounds: int) -> list[Figure]:
    arms: dict[str, Callable[[], float]] = {"bare fdatasync": stand.bare_sync}
    arms |= {f"p50 {name}": stand.load(name, 1, "p50_ms") for name in stand.arms}
    arms |= {f"16 {name}": stand.load(name, 16, "per_s") for name in stand.arms if name != "direct"}
    arms |= {f"64 {name}": stand.load(name, 64, "per_s") for name in ("journal off", "sync")}
    seen = interleaved(arms, rounds)

    def each(work: Callable[..., float], *names: str) -> list[float]:
        return [work(*values) for values in zip(*(seen[name] for name in names), strict=True)]

    made = [Figure("bare fdatasync p50", "ms", seen["bare fdatasync"])]
    made.append(Figure("direct latency p50", "ms", seen["p50 direct"]))
    for name in stand.arms:
        if name != "direct":
            added = each(lambda own, direct: own - direct, f"p50 {name}", "p50 direct")
            made.append(Figure(f"{name}: added latency p50, 1 connection", "ms", added, "direct"))
            made.append(Figure(f"{name}: requests/s, 16 connections", "1/s", seen[f"16 {name}"]))
    made += [
        Figure(f"{name}: requests/s, 64 connections", "1/s", seen[f"64 {name}"]) for name in ("journal off", "sync")
    ]
    added_ratio = each(
        lambda own, other, direct: (own - direct) / (other - direct),
        "p50 journal off", "p50 pass-through", "p50 direct",
    )  # fmt: skip
    made.append(Figure("added latency, journal off", "ratio", added_ratio, "pass-through", "<= 1.5"))
    syncs = each(lambda own, off, bare: (own - off) / bare, "p50 sync", "p50 journal off", "bare fdatasync")
    made.append(Figure("sync on top of journal off, 1 connection", "fdatasyncs", syncs, "bare fdatasync", "<= 1.5"))
    goals = {"pass-through": ">= 0.6", "litellm": ">= 8", "vllm_router": ""}
    for other, goal in goals.items():
        if other in stand.arms:
            ratio = each(lambda own, its: own / its, "16 sync", f"16 {other}")
            made.append(Figure("requests/s, 16 connections, sync", "ratio", ratio, other, goal))
    kept = each(lambda own, off: own / off, "64 sync", "64 journal off")
    made.append(Figure("requests/s, 64 connections, sync", "ratio", kept, "journal off", ">= 0.85"))
    return made
