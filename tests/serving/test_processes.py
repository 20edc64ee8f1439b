"""Processes are known by pid and birth, stopped with their group, and never start on a taken port."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from lake.errors import PortInUseError, SetupError
from lake.files import read_json, write_json_atomic
from serving import processes

_SERVER = """
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *a): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""
_STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code])
print(child.pid, flush=True)
time.sleep(60)
"""


def _start(tmp_path: Path, name: str, code: str, *args: str, **options: object) -> processes.ProcessRecord:
    argv = [sys.executable, "-c", code, *args]
    return processes.start(name, argv, os.environ, tmp_path, tmp_path / f"{name}.log", **options)  # type: ignore[arg-type]


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_start_waits_for_health_and_stop_ends_it(tmp_path: Path) -> None:
    port = processes.free_port()
    record = _start(tmp_path, "web", _SERVER, str(port), health_url=f"http://127.0.0.1:{port}/")
    try:
        assert record.port == port
        assert not processes.port_is_free(port)
        assert [entry.alive for entry in processes.status(tmp_path)] == [True]
        assert os.getpgid(record.pid) == record.pid != os.getpgid(0)
        with pytest.raises(SetupError, match="already runs"):
            _start(tmp_path, "web", _SERVER, str(processes.free_port()))
        with pytest.raises(PortInUseError, match=str(port)):
            _start(tmp_path, "other", _SERVER, str(port), port=port)
    finally:
        assert processes.stop_all(tmp_path) == ["web"]
    assert _gone(record.pid)
    assert processes.port_is_free(port)
    assert processes.status(tmp_path) == []
    assert processes.stop("web", tmp_path) is False


def test_a_process_that_dies_is_reported_with_its_last_lines(tmp_path: Path) -> None:
    code = "import sys; print('loading'); sys.exit('no such model: put one there')"
    with pytest.raises(SetupError, match=r"(?s)code 1.*loading.*no such model: put one there"):
        _start(tmp_path, "dead", code, health_url=f"http://127.0.0.1:{processes.free_port()}/", timeout_s=20)
    assert processes.read_record(tmp_path, "dead") is None


def test_a_process_that_is_never_ready_is_stopped_and_progress_is_told(tmp_path: Path) -> None:
    notes: list[tuple[float, str]] = []
    code = "import os,time; print('pid', os.getpid(), flush=True); time.sleep(60)"
    with pytest.raises(SetupError, match="not ready within"):
        _start(
            tmp_path,
            "slow",
            code,
            health_url=f"http://127.0.0.1:{processes.free_port()}/",
            timeout_s=1.5,
            progress=lambda waited_s, line: notes.append((waited_s, line)),
        )
    pid = int(processes.tail(tmp_path / "slow.log")[-1].split()[1])
    assert _gone(pid)
    assert notes and notes[-1][1] == f"pid {pid}"


def test_a_missing_program_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="can't be started: /nowhere/vllm: No such file"):
        processes.start("x", ["/nowhere/vllm"], {}, tmp_path, tmp_path / "x.log")


def test_what_ignores_term_is_killed_with_its_children(tmp_path: Path) -> None:
    record = _start(tmp_path, "stubborn", _STUBBORN)
    deadline = time.monotonic() + 10
    while not (lines := processes.tail(tmp_path / "stubborn.log")) and time.monotonic() < deadline:
        time.sleep(0.02)
    child = int(lines[0])
    begun = time.monotonic()
    assert processes.stop("stubborn", tmp_path, grace_s=0.5)
    assert time.monotonic() - begun < 8
    assert _gone(record.pid) and _gone(child)


def test_children_of_a_dead_leader_are_stopped_too(tmp_path: Path) -> None:
    record = _start(tmp_path, "leader", _STUBBORN)
    while not (lines := processes.tail(tmp_path / "leader.log")):
        time.sleep(0.02)
    child = int(lines[0])
    os.kill(record.pid, signal.SIGKILL)
    while processes.is_alive(record):
        time.sleep(0.02)
    assert not _gone(child)
    assert processes.stop("leader", tmp_path, grace_s=0.3)
    assert _gone(child)


def test_a_recycled_pid_is_not_touched(tmp_path: Path) -> None:
    record = _start(tmp_path, "mine", "import time; time.sleep(60)")
    path = tmp_path / "mine.json"
    whole = read_json(path)
    try:
        write_json_atomic(path, {**whole, "birth": "another-boot:1"})
        assert [entry.alive for entry in processes.status(tmp_path)] == [False]
        assert processes.stop("mine", tmp_path) is False
        assert not _gone(record.pid)
    finally:
        write_json_atomic(path, whole)
        processes.stop("mine", tmp_path)
    assert _gone(record.pid)


def test_no_environment_is_written(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "import time; time.sleep(60)"]
    env = {**os.environ, "SECRET_KEY": "do-not-write-me"}
    processes.start("quiet", argv, env, tmp_path, tmp_path / "quiet.log")
    try:
        assert b"do-not-write-me" not in (tmp_path / "quiet.json").read_bytes()
    finally:
        processes.stop("quiet", tmp_path)


def test_free_ports() -> None:
    port = processes.free_port()
    assert processes.port_is_free(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert not processes.port_is_free(port)
        with pytest.raises(PortInUseError, match="make down"):
            processes.require_free_port(port, "it")
