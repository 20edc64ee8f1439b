"""The registry's state log: one chained line an event of an adapter (`lake/chained_log.py` says what that keeps).

Reads and writes `models/registry/log.jsonl`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lake.chained_log import GENESIS, ChainedLog
from lake.errors import AdapterError

EventKind = Literal["add", "promote", "rollback", "retire", "quarantine"]


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
        self._log = ChainedLog(path, AdapterError)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One writer at a time, across processes."""
        with self._log.locked():
            yield

    def read(self) -> list[Event]:
        """All events in order. Raises `AdapterError` where a whole line is damaged or the chain is broken."""
        events: list[Event] = []
        for number, row in enumerate(self._log.read(), start=1):
            try:
                events.append(Event(**row))
            except TypeError as error:
                raise AdapterError(f"{self.path} line {number} is damaged: restore it from a copy.") from error
        return events

    def append(self, kind: EventKind, adapter_id: str, actor: str, reason: str, evidence: dict[str, Any]) -> Event:
        """Add one event; durable on return. Only inside `locked()`."""
        content = {"kind": kind, "adapter_id": adapter_id, "actor": actor, "reason": reason, "evidence": evidence}
        return Event(**self._log.append(content))
