"""How the gateway's workers tell which backend they use: one small file a worker below `data/run/ack/`.

Each worker holds an flock on `<worker>.lock` for its life and replaces `<worker>.json` after every change.
Invariant: an acknowledgement counts only while its worker lives; what dead workers left is removed by the
reader. The lock is held before its file has its name, so no reader can take a worker that starts for a dead one.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from lake.files import write_json_atomic


@dataclass(frozen=True, slots=True)
class Ack:
    """What one worker says: the newest generation it has read, and whether it is in service."""

    worker: str
    pid: int
    generation: int
    ok: bool
    reason: str = ""
    model: str = ""


class AckWriter:
    """The worker's side. Files are removed by `close`, or by the next reader after a kill."""

    def __init__(self, folder: Path, worker: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._worker = worker
        self._path = folder / f"{worker}.json"
        self._lock_path = folder / f"{worker}.lock"
        hidden = folder / f".{worker}.tmp"
        self._lock = os.open(hidden, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        hidden.rename(self._lock_path)

    def write(self, generation: int, *, ok: bool, reason: str = "", model: str = "") -> None:
        """Replace this worker's acknowledgement."""
        ack = Ack(self._worker, os.getpid(), generation, ok, reason, model)
        write_json_atomic(self._path, asdict(ack))

    def close(self) -> None:
        """Withdraw from the list of workers. Safe to repeat."""
        if self._lock >= 0:
            self._path.unlink(missing_ok=True)
            self._lock_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1


def live_acks(folder: Path) -> list[Ack]:
    """The acknowledgements of living workers; removes the files of dead ones."""
    acks: list[Ack] = []
    for lock_path in sorted(folder.glob("*.lock")):
        path = lock_path.with_suffix(".json")
        if _is_dead(lock_path):
            path.unlink(missing_ok=True)
            lock_path.unlink(missing_ok=True)
            continue
        try:
            acks.append(Ack(**orjson.loads(path.read_bytes())))
        except FileNotFoundError:
            acks.append(Ack(lock_path.stem, 0, -1, True, "starting"))
        except (orjson.JSONDecodeError, TypeError):
            acks.append(Ack(lock_path.stem, 0, -1, False, "its acknowledgement can't be read"))
    return acks


def _is_dead(lock_path: Path) -> bool:
    try:
        descriptor = os.open(lock_path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
