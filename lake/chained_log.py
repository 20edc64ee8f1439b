"""An append-only log of JSON lines: one a change of state, fsynced, each naming the sha256 of the line before.

Adapters (`lake/registry_log.py`) and index versions (`lake/index_log.py`) keep theirs with it. Invariant: a row
that `append` returned for is on disk and never changes; a torn last line (power cut while writing) was never
returned for and is cut off by the next writer. The chain shows a line that was changed, left out or moved; it
can't show that a whole new file was put in its place: who may write the file decides that.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from lake.errors import MulleError
from lake.files import canonical_json, fsync_dir, sha256_bytes

GENESIS = "0" * 64


class ChainedLog:
    """Rows are objects with `seq`, `at` (UTC), `previous_sha256` and what the writer adds. Reading needs no lock;
    deciding and appending happen inside `locked()`. `damage`: the error raised for a log that is not whole.
    """

    def __init__(self, path: Path, damage: type[MulleError]) -> None:
        self.path = path
        self._damage = damage

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

    def read(self) -> list[dict[str, Any]]:
        """All rows in order. Raises `damage` where a whole line is no object or the chain is broken."""
        rows: list[dict[str, Any]] = []
        previous = GENESIS
        for number, line in enumerate(self._whole_lines(), start=1):
            try:
                row: object = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise self._damage(f"{self.path} line {number} is damaged: restore it from a copy.") from error
            if not isinstance(row, dict):
                raise self._damage(f"{self.path} line {number} is damaged: restore it from a copy.")
            if row.get("seq") != number or row.get("previous_sha256") != previous:
                raise self._damage(f"{self.path} line {number} does not follow the one before: restore a copy.")
            previous = sha256_bytes(line)
            rows.append(row)
        return rows

    def append(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Add one row; durable on return. Only inside `locked()`."""
        lines = self._whole_lines()
        row: dict[str, Any] = {
            **content,
            "seq": len(lines) + 1,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "previous_sha256": sha256_bytes(lines[-1]) if lines else GENESIS,
        }
        whole_bytes = sum(len(line) + 1 for line in lines)
        is_new = not self.path.exists()
        with self.path.open("r+b" if not is_new else "w+b") as handle:
            handle.truncate(whole_bytes)  # a torn tail, if any
            handle.seek(whole_bytes)
            handle.write(canonical_json(row) + b"\n")
            handle.flush()
            os.fsync(handle.fileno())
        if is_new:
            fsync_dir(self.path.parent)
        return row

    def _whole_lines(self) -> list[bytes]:
        data = self.path.read_bytes() if self.path.exists() else b""
        return data.split(b"\n")[:-1]  # what follows the last newline was never acknowledged
