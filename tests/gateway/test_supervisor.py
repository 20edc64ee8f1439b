"""The parent's rules, over small workers that speak its protocol: real processes, no models."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.kit import ROOT, wait_until

# Each worker runs BODY with: slot, starts, listen (socket), channel (socket), folder (Path), ready().
WORKER = """
import os, pathlib, signal, socket, sys, threading, time
slot, starts, listen_fd, channel_fd, folder = *map(int, sys.argv[1:5]), pathlib.Path(sys.argv[5])
listen, channel = socket.socket(fileno=listen_fd), socket.socket(fileno=channel_fd)
note = lambda name: (folder / f"{name}-{slot}-{starts}").write_text(str(os.getpid()))
def ready():
    channel.send(b"R"); note("ready")
def end_on_term(code=0):
    signal.signal(signal.SIGTERM, lambda *_: (note("term"), os._exit(code)))
def end_with_the_parent():
    while channel.recv(1): pass
    os._exit(1)
threading.Thread(target=end_with_the_parent, daemon=True).start()
signal.signal(signal.SIGHUP, lambda *_: note("hup"))
"""
PARENT = """
import pathlib, socket, sys
from gateway.supervisor import Supervisor
folder, count, drain_s, tries, start_s = pathlib.Path(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:6])
listener = socket.create_server(("127.0.0.1", 0))
(folder / "port").write_text(str(listener.getsockname()[1]))
def command(slot, starts, fd):
    words = map(str, (slot, starts, listener.fileno(), fd, folder))
    return [sys.executable, "-c", (folder / "worker.py").read_text(), *words]
sys.exit(Supervisor(command, listener, count, drain_timeout_s=drain_s, start_timeout_s=start_s, tries=int(tries),
                    backoff_max_s=0.2, on_ready=lambda: (folder / "all-ready").touch()).run())
"""


class Family:
    """A supervisor in a process of its own, with the files its workers leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def start(self, body: str, count: int = 1, drain_s: float = 5.0, tries: int = 3, start_s: float = 20.0) -> None:
        (self.folder / "worker.py").write_text(WORKER + textwrap.dedent(body))
        argv = [sys.executable, "-c", PARENT, str(self.folder), str(count), str(drain_s), str(tries), str(start_s)]
        log = (self.folder / "log").open("w")
        self.process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log, text=True)
        log.close()

    def has(self, *names: str) -> bool:
        return all((self.folder / name).exists() for name in names)

    def pid(self, name: str) -> int:
        wait_until(lambda: self.has(name) and bool((self.folder / name).read_text()))
        return int((self.folder / name).read_text())

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(30)


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    family = Family(tmp_path)
    yield family
    if family.process is not None and family.process.poll() is None:
        family.process.kill()
        family.process.wait(10)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() or ["Z"])[0] == "Z"


WAITS = "\nwhile True: time.sleep(60)\n"
SERVES = "end_on_term(); ready()" + WAITS


def test_starts_all_and_ends_all(family: Family) -> None:
    family.start(SERVES, count=3)
    pids = [family.pid(f"ready-{slot}-1") for slot in range(3)]
    wait_until(lambda: family.has("all-ready"))
    family.send(signal.SIGTERM)
    assert family.wait() == 0
    assert family.has("term-0-1", "term-1-1", "term-2-1") and all(map(is_gone, pids))


def test_hangup_reaches_every_ready_worker_and_restarts_none(family: Family) -> None:
    family.start(SERVES, count=2)
    wait_until(lambda: family.has("all-ready"))
    family.send(signal.SIGHUP)
    wait_until(lambda: family.has("hup-0-1", "hup-1-1"))
    family.send(signal.SIGINT)
    assert family.wait() == 0 and not family.has("ready-0-2")


def test_hangup_spares_a_worker_that_is_loading(family: Family) -> None:
    family.start(
        """
        if slot == 1:
            signal.signal(signal.SIGHUP, signal.SIG_DFL); note("loading"); time.sleep(1.5)
            signal.signal(signal.SIGHUP, lambda *_: note("hup"))
        end_on_term(); ready()
        while True: time.sleep(60)
        """,
        count=2,
    )
    wait_until(lambda: family.has("loading-1-1"))
    family.send(signal.SIGHUP)
    wait_until(lambda: family.has("all-ready", "hup-0-1"))
    assert not family.has("hup-1-1") and not family.has("loading-1-2")


def test_dead_worker_is_started_anew_while_the_port_stays_open(family: Family) -> None:
    family.start(SERVES)
    os.kill(family.pid("ready-0-1"), signal.SIGKILL)
    with socket.create_connection(("127.0.0.1", family.pid("port")), timeout=5):  # waits in the backlog, not refused
        second = family.pid("ready-0-2")
    family.send(signal.SIGTERM)
    assert family.wait() == 0 and is_gone(second)


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(78)", 78), ("os.kill(os.getpid(), 9)", 137)])
def test_first_worker_that_cannot_start_ends_everything_at_once(family: Family, ending: str, code: int) -> None:
    family.start(f"note('try'); print('error: no model', file=sys.stderr, flush=True); {ending}", count=3)
    assert family.wait() == code
    assert family.has("try-0-1") and not family.has("try-0-2") and not family.has("try-1-1")
    assert "error: no model" in (family.folder / "log").read_text()


def test_last_worker_that_keeps_dying_ends_everything_with_its_code(family: Family) -> None:
    family.start("if starts > 1: note('try'); sys.exit(74)\nready(); os.kill(os.getpid(), 9)\n")
    assert family.wait() == 74
    assert family.has("try-0-3") and not family.has("try-0-4")


def test_worker_that_keeps_dying_does_not_end_those_that_serve(family: Family) -> None:
    family.start("if slot == 1: note('try'); sys.exit(1)\n" + SERVES, count=2, tries=2)
    wait_until(lambda: family.has("try-1-5"))
    assert family.process is not None and family.process.poll() is None and not family.has("ready-0-2")
    family.send(signal.SIGTERM)
    assert family.wait() == 0


def test_worker_that_hangs_at_its_start_is_replaced(family: Family) -> None:
    # Six seconds: on a busy machine Python itself takes some of them to start.
    family.start("if starts == 1 and slot == 1: time.sleep(60)\n" + SERVES, count=2, start_s=6.0)
    wait_until(lambda: family.has("all-ready", "ready-1-2"), 60)
    assert "not ready in time" in (family.folder / "log").read_text()


def test_worker_that_ignores_the_end_is_killed_after_the_drain_time(family: Family) -> None:
    # The parent gives CLOSE_S (12 s) beyond the drain time: a negative one keeps this test short.
    family.start("signal.signal(signal.SIGTERM, signal.SIG_IGN); ready()" + WAITS, drain_s=-11.5)
    pid = family.pid("ready-0-1")
    wait_until(lambda: family.has("all-ready"))
    family.send(signal.SIGTERM)
    assert family.wait() == 137 and is_gone(pid)


def test_second_ctrl_c_waits_for_nobody(family: Family) -> None:
    family.start("signal.signal(signal.SIGTERM, lambda *_: note('term')); ready()" + WAITS, drain_s=60)
    family.pid("ready-0-1")
    wait_until(lambda: family.has("all-ready"))
    family.send(signal.SIGINT)
    wait_until(lambda: family.has("term-0-1"))
    family.send(signal.SIGINT)
    assert family.wait() == 137


def test_new_connections_are_refused_once_the_end_began(family: Family) -> None:
    family.start("signal.signal(signal.SIGTERM, lambda *_: (listen.close(), note('term'))); ready()" + WAITS)
    wait_until(lambda: family.has("all-ready"))
    family.send(signal.SIGTERM)
    wait_until(lambda: family.has("term-0-1"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", family.pid("port")), timeout=5)


def test_parent_imports_nothing_heavy() -> None:
    heavy = {"numpy", "faiss", "fastapi", "httpx", "uvicorn", "prometheus_client"}
    code = f"import sys, gateway.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_workers_of_a_test_that_failed_do_not_stay(family: Family) -> None:
    """The stand-ins of this file watch their parent as real workers do, or each failed test would leave some."""
    family.start(SERVES, count=2)
    pids = [family.pid("ready-0-1"), family.pid("ready-1-1")]
    family.send(signal.SIGKILL)
    family.wait()
    wait_until(lambda: all(map(is_gone, pids)))
