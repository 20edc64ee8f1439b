"""The registry's state log: one JSON line an event, appended under a lock, fsynced, chained by sha256.

Reads and writes `models/registry/log.jsonl`. Invariant: an event that `append` returned for is on disk and
never changes; a torn last line (power cut while writing) was never returned for and is cut off by the next
writer.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

from lake.errors import AdapterError
from lake.files import canonical_json, fsync_dir, sha256_bytes

EventKind = Literal["add", "promote", "rollback", "retire", "quarantine"]
GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Event:
    """One change of state. `at` is UTC; `previous_sha256` is of the line before."""

    seq: int
    kind: EventKind
    adapter_id: str
    actor: str
    reason: str
    at: str
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])
    previous_sha256: str = GENESIS


class RegistryLog:
    """Append-only. Reading needs no lock; deciding and appending happen inside `locked()`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time, across processes (flock of a file beside the log)."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)  # releases the lock

    def read(self) -> list[Event]:
        """All events in order. Raises `AdapterError` where a whole line is damaged or the chain is broken."""
        events: list[Event] = []
        previous = GENESIS
        for number, line in enumerate(self._whole_lines(), start=1):
            try:
                event = Event(**orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError) as error:
                raise AdapterError(f"{self.path} line {number} is damaged: restore it from a copy.") from error
            if event.seq != number or event.previous_sha256 != previous:
                raise AdapterError(f"{self.path} line {number} does not follow the one before: restore a copy.")
            previous = sha256_bytes(line)
            events.append(event)
        return events

    def append(self, kind: EventKind, adapter_id: str, actor: str, reason: str, evidence: dict[str, Any]) -> Event:
        """Add one event; durable on return. Only inside `locked()`."""
        lines = self._whole_lines()
        event = Event(
            seq=len(lines) + 1,
            kind=kind,
            adapter_id=adapter_id,
            actor=actor,
            reason=reason,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            evidence=evidence,
            previous_sha256=sha256_bytes(lines[-1]) if lines else GENESIS,
        )
        whole_bytes = sum(len(line) + 1 for line in lines)
        is_new = not self.path.exists()
        with self.path.open("r+b" if not is_new else "w+b") as handle:
            handle.truncate(whole_bytes)  # a torn tail, if any
            handle.seek(whole_bytes)
            handle.write(canonical_json(asdict(event)) + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        if is_new:
            fsync_dir(self.path.parent)
        return event

    def _whole_lines(self) -> list[bytes]:
        data = self.path.read_bytes() if self.path.exists() else b""
        return data.split(b"\n")[:-1]  # what follows the last newline was never acknowledged
