"""Background processes of one Mulle: started detached, known by pid and birth, stopped with their whole group.

Writes `<run_dir>/<name>.json` (pid, birth, port, log) and the log file. A pid alone is never trusted: it is
compared with the process's start time, so a recycled pid is not killed. No secret is written: keys travel in
`env`, which is not recorded.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from lake.doctor import port_is_free
from lake.errors import PortInUseError, SetupError
from lake.files import read_json, write_json_atomic

ProgressNote = Callable[[float, str], None]  # seconds since the start, last log line

# Popen objects of processes that this process started: they have to be reaped by it, and by nobody else.
_children: dict[int, subprocess.Popen[bytes]] = {}


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """What `<run_dir>/<name>.json` holds."""

    name: str
    pid: int
    birth: str
    argv: list[str]
    port: int | None
    health_url: str | None
    log: str
    started: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A record and whether its process lives."""

    record: ProcessRecord
    alive: bool


def require_free_port(port: int, what: str) -> None:
    """Raise `PortInUseError` where something listens on loopback `port`."""
    if not port_is_free(port):
        raise PortInUseError(
            f"Port {port} on 127.0.0.1 is in use, so {what} can't start: stop what uses it "
            "(`make down`, `ss -ltnp`) or choose another port.",
            port=port,
        )


def free_port() -> int:
    """A loopback TCP port that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _birth(pid: int) -> str | None:
    """An identity of the process beside its pid that no later process has, or None where it is gone.

    Linux: boot id and start time in clock ticks (immune to a changed clock); elsewhere psutil's start time.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():
            ticks = stat.read_text().rpartition(")")[2].split()[19]
            return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{ticks}"
        return f"{process.create_time():.1f}"
    except (psutil.Error, OSError, IndexError):
        return None


def tail(path: Path, lines: int = 12, offset: int = 0) -> list[str]:
    """The last non-empty lines of a log from byte `offset` on (at most 64 KiB are read)."""
    try:
        with path.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(offset, size - 65_536))
            text = handle.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def _record_path(run_dir: Path, name: str) -> Path:
    return run_dir / f"{name}.json"


def read_record(run_dir: Path, name: str) -> ProcessRecord | None:
    """The record of `name`, or None where there is none or it is unreadable."""
    try:
        return ProcessRecord(**read_json(_record_path(run_dir, name)))
    except (OSError, ValueError, TypeError):
        return None


def is_alive(record: ProcessRecord) -> bool:
    """Whether the very process of the record lives (reaps it where it ended and is ours)."""
    child = _children.get(record.pid)
    if child is not None and child.poll() is not None:
        _children.pop(record.pid, None)
    return _birth(record.pid) == record.birth


@contextmanager
def _name_lock(run_dir: Path, name: str) -> Iterator[None]:
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / f".{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def start(
    name: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    run_dir: Path,
    log_path: Path,
    health_url: str | None = None,
    timeout_s: float = 60.0,
    progress: ProgressNote | None = None,
    port: int | None = None,
    cwd: Path | None = None,
) -> ProcessRecord:
    """Start `argv` in a session of its own and wait until `health_url` answers 200.

    `env` is the whole environment. `port` defaults to the one in `health_url`. Raises `PortInUseError` where it
    is taken, `SetupError` where `name` already runs, the program is missing, dies (with its last log lines) or
    is not ready after `timeout_s` (it is stopped then).
    """
    port = port if port is not None else (urlsplit(health_url).port if health_url else None)
    with _name_lock(run_dir, name):
        old = read_record(run_dir, name)
        if old is not None and is_alive(old):
            raise SetupError(f"{name} already runs (pid {old.pid}): stop it first, for example with `make down`.")
        if port is not None:
            require_free_port(port, name)
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            offset = log.tell()
            try:
                child = subprocess.Popen(
                    list(argv),
                    env=dict(env),
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise SetupError(f"{name} can't be started: {argv[0]}: {error.strerror}.") from error
        _children[child.pid] = child
        record = ProcessRecord(
            name=name,
            pid=child.pid,
            birth=_birth(child.pid) or "",
            argv=list(argv),
            port=port,
            health_url=health_url,
            log=str(log_path),
            started=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        write_json_atomic(_record_path(run_dir, name), asdict(record))
    try:
        if health_url is not None:
            _wait_ready(record, child, health_url, timeout_s, log_path, offset, progress)
    except BaseException:  # Ctrl-C too: nothing half-started stays behind
        stop(name, run_dir, grace_s=5.0)
        raise
    return record


def _wait_ready(
    record: ProcessRecord,
    child: subprocess.Popen[bytes],
    health_url: str,
    timeout_s: float,
    log_path: Path,
    offset: int,
    progress: ProgressNote | None,
) -> None:
    begun = time.monotonic()
    last_note = 0.0
    with httpx.Client(trust_env=False, timeout=httpx.Timeout(2.0), follow_redirects=False) as client:
        while True:
            waited = time.monotonic() - begun
            if child.poll() is not None:
                lines = "\n  ".join(tail(log_path, offset=offset)) or "(no output)"
                raise SetupError(
                    f"{record.name} ended with code {child.returncode} after {waited:.1f} s; its last lines, "
                    f"from {log_path}:\n  {lines}",
                    returncode=child.returncode,
                )
            with contextlib.suppress(httpx.TransportError):
                if client.get(health_url).status_code == 200:
                    return
            if waited > timeout_s:
                lines = "\n  ".join(tail(log_path, offset=offset)) or "(no output)"
                raise SetupError(
                    f"{record.name} was not ready within {timeout_s:.0f} s and was stopped; its last lines, "
                    f"from {log_path}:\n  {lines}"
                )
            if progress is not None and waited - last_note >= 1.0:
                last_note = waited
                progress(waited, (tail(log_path, 1, offset) or [""])[-1])
            time.sleep(0.1)


def _group_members(pgid: int) -> list[psutil.Process]:
    """Living processes of the group (zombies are dead already)."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) == pgid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def stop(name: str, run_dir: Path, grace_s: float = 15.0) -> bool:
    """Stop `name` and all that it started: TERM to the group, KILL to what is left after `grace_s` seconds.

    Returns whether anything was running. Safe to repeat; forgets the record.
    """
    record = read_record(run_dir, name)
    if record is None:
        _record_path(run_dir, name).unlink(missing_ok=True)
        return False
    members: list[psutil.Process] = []
    if is_alive(record):
        with contextlib.suppress(psutil.Error):
            members = [psutil.Process(record.pid), *psutil.Process(record.pid).children(recursive=True)]
    if members or not psutil.pid_exists(record.pid):  # a dead leader's group is still ours; a recycled pid is not
        known = {process.pid for process in members}
        members += [process for process in _group_members(record.pid) if process.pid not in known]
    running = bool(members)
    # Parents of helpers end those themselves: the leader first, everyone else after a moment.
    _signal(members[:1], signal.SIGTERM)
    _, left = _wait_gone(members, record.pid, min(grace_s, 2.0))
    _signal(left, signal.SIGTERM)
    _, left = _wait_gone(left, record.pid, grace_s)
    _signal(left, signal.SIGKILL)
    _wait_gone(left, record.pid, 5.0)
    _record_path(run_dir, name).unlink(missing_ok=True)
    return running


def _wait_gone(
    processes: list[psutil.Process], leader: int, timeout_s: float
) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """Wait for processes to end, reaping the leader where it is our child; returns (gone, left)."""
    deadline = time.monotonic() + timeout_s
    left = processes
    while True:
        child = _children.get(leader)
        if child is not None and child.poll() is not None:
            del _children[leader]
        left = [process for process in left if _lives(process)]
        if not left or time.monotonic() >= deadline:
            gone = [process for process in processes if process not in left]
            child = _children.get(leader)
            if child is not None and any(process.pid == leader for process in gone):
                child.wait(5.0)  # a zombie by now: only to be reaped
                del _children[leader]
            return gone, left
        time.sleep(0.05)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def status(run_dir: Path) -> list[ProcessStatus]:
    """Every recorded process, in the order of their starts."""
    found: list[ProcessStatus] = []
    for path in run_dir.glob("*.json"):
        record = read_record(run_dir, path.stem)
        if record is not None:
            found.append(ProcessStatus(record, is_alive(record)))
    return sorted(found, key=lambda entry: entry.record.started)


def stop_all(run_dir: Path, grace_s: float = 15.0) -> list[str]:
    """Stop every recorded process, the last started first; returns the names that were running."""
    return [entry.record.name for entry in reversed(status(run_dir)) if stop(entry.record.name, run_dir, grace_s)]
