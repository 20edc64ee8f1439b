"""Real gateway processes over a small real index, and what their journals hold, for harnesses outside of pytest too."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson

from lake.journal.frames import Damage
from lake.journal.reader import list_segments, list_workers, read_segment
from lake.schemas.records import FrameKind
from serving.encoders import load_encoder
from serving.index import build_index
from tests.faults.clients import Users
from tests.gateway.kit import ROOT, TOOL_IDS, Gateway, sample_tools, wait_until


@functools.cache
def make_index() -> Path:
    """An index over ten sample tools, made with the bundled encoder; once a process, removed at its end."""
    root = Path(tempfile.mkdtemp(prefix="index-of-ten-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    build_index(sample_tools(TOOL_IDS), "test-catalog", load_encoder(), root / "index")
    return root / "index"


@contextlib.contextmanager
def running_gateway(data_dir: Path, index: Path, env: Mapping[str, str], bug: str = "") -> Iterator[Gateway]:
    """`python -m gateway` on a free port in a session of its own; ready inside the block, killed after it.

    `bug`: one of `buggy_gateway`'s in its place.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    link = data_dir / "index"
    if not link.exists():
        link.symlink_to(index)
    log_path = data_dir / "gateway.log"
    with log_path.open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *(("tests.faults.buggy_gateway", bug) if bug else ("gateway",))],
            cwd=ROOT,
            env={
                "PATH": os.environ["PATH"], "MULLE_PORT": "0", "MULLE_DATA_DIR": str(data_dir),
                "MULLE_MODELS_DIR": str(data_dir / "models"), "PYTHONUNBUFFERED": "1", **env,
            },
            stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "listening on" in line, log_path.read_text()[-2000:]
        gateway = Gateway(process, line.rsplit(" ", 1)[-1].strip(), data_dir)

        def is_ready() -> bool:
            assert process.poll() is None, log_path.read_text()[-2000:]
            return httpx.get(f"{gateway.url}/readyz", trust_env=False).status_code == 200

        wait_until(is_ready, 60)
        yield gateway
    finally:
        kill_all(process)
        if process.stdout is not None:
            process.stdout.close()


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the gateway's parent and all of its workers at once, and wait."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    end = time.monotonic() + 10
    while time.monotonic() < end:  # workers are not our children; their locks are free once they are gone
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)


def wait_for_replies(users: Users, count: int) -> None:
    """Until the users have had this many (a slow machine must not make a harness see nothing)."""
    end = time.monotonic() + 30
    while len(users.replies) < count and time.monotonic() < end:
        time.sleep(0.005)


@dataclass(slots=True)
class Journalled:
    """Both halves by request id; what stands twice; damaged ranges."""

    requests: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    responses: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    doubled: list[str] = field(default_factory=list[str])
    damage: int = 0

    @property
    def unanswered(self) -> set[str]:
        """Requests without their second half."""
        return self.requests.keys() - self.responses.keys()


def journalled(root: Path) -> Journalled:
    """Everything below a journal root, damaged or not."""
    found = Journalled()
    into = {FrameKind.REQUEST: found.requests, FrameKind.RESPONSE: found.responses}
    for worker in list_workers(root):
        for segment in list_segments(worker):
            for item in read_segment(segment.path):
                if isinstance(item, Damage):
                    found.damage += 1
                elif item.kind in (FrameKind.REQUEST, FrameKind.RESPONSE):
                    half = orjson.loads(item.payload)
                    rows = into[FrameKind(item.kind)]
                    if half["request_id"] in rows:
                        found.doubled.append(half["request_id"])
                    rows[half["request_id"]] = half
    return found
