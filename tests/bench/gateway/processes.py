"""Starts the processes of the bench, each on its core, and ends them.

The server under measurement has the first core for itself; stub model and load share the last one, so that what they
cost is the same for every server. Everything listens on loopback, on ports that are free now.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from lake.errors import SetupError

ROOT = Path(__file__).resolve().parents[3]
PEERS_DIR = ROOT / ".bench" / "peers"  # git-ignored
PEER_PINS = ROOT / "tests" / "bench" / "peers"
_START_S = 120.0


def cores() -> tuple[int, int]:
    """(the server's core, the core of stub and load); the same one twice where there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[-1]


def free_port() -> int:
    """A TCP port on loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def module(name: str, *arguments: object) -> list[str]:
    """Command line of a module of this folder."""
    return [sys.executable, "-m", f"tests.bench.gateway.{name}", *map(str, arguments)]


@contextlib.contextmanager
def running(command: Sequence[str], core: int, url: str, log: Path, env: Mapping[str, str]) -> Iterator[None]:
    """A process on `core` until the block ends; `url` answers 200 before it begins. Raises `SetupError`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "HOME": str(log.parent), **env},
            stdout=out,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    try:
        _wait_for(process, url, log)
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(15)


def _wait_for(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        time.sleep(0.1)
    tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-15:])
    raise SetupError(f"{process.args} does not answer at {url}:\n{tail}")


def measured(command: Sequence[str], core: int) -> bytes:
    """What a process prints that runs to its end on `core`. Raises `SetupError`."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, preexec_fn=lambda: os.sched_setaffinity(0, {core}), check=False
    )
    if done.returncode:
        raise SetupError(f"{' '.join(command[:4])} failed: {done.stderr.decode('utf-8', 'replace')[-2000:]}")
    return done.stdout


def make_peer(name: str) -> None:
    """The environment of a peer from its pins, made once. Raises `SetupError`."""
    folder, pins = PEERS_DIR / name, PEER_PINS / f"{name}.txt"
    ready = folder / f".ready-{pins.stat().st_mtime_ns}"
    if ready.exists():
        return
    print(f"peer {name}: installing {pins.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin" / "pip"), "install", "-qq", "--disable-pip-version-check", "-r", str(pins)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SetupError(f"The peer {name} can't be installed: {done.stderr[-1000:]}")
    ready.touch()


def peer_program(name: str, program: str) -> Path | None:
    """The installed program of a peer; None where the peer was not made (or not by these pins)."""
    found = PEERS_DIR / name / "bin" / program
    return found if found.exists() and list((PEERS_DIR / name).glob(".ready-*")) else None
