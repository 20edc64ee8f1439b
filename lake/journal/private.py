"""The records of requests whose callers opted out (`store: false`): kept for operations, removed after N days.

Writes `data/private-journal/`, in the frames of the journal but in folders of their own, which no ingest reads: so
their text can't reach the lake. The main journal gets the same records without text, so that the ledger still counts
them. Invariants: an append is as durable as the journal's mode says; no record is older than `keep_days` once `sweep`
has run (each worker folder holds one day, and goes as a whole when its first record is that old).
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from lake.errors import JournalError
from lake.journal.disk import Disk
from lake.journal.frames import Frame
from lake.journal.reader import is_worker_alive, list_segments, list_workers, read_frame
from lake.journal.writer import FramePosition, JournalWriter, Mode
from lake.schemas.records import FrameKind, Record


class PrivateJournal:
    """One worker's private records. The first append opens it, and the first of each UTC day begins a new folder."""

    def __init__(
        self,
        root: Path,
        *,
        mode: Mode = "sync",
        group_window_ms: float = 50.0,
        disk: Disk | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._root = root
        self._mode: Mode = mode
        self._window_ms = group_window_ms
        self._disk = disk
        self._clock = clock
        self._lock = threading.Lock()
        self._writer: JournalWriter | None = None
        self._day: date | None = None
        self._closed = False

    async def append(self, kind: FrameKind, record: Record | dict[str, Any]) -> FramePosition:
        """As `JournalWriter.append`. Raises `JournalError`, also where no folder can be made."""
        writer, day = self._writer, self._day
        if writer is None or day != self._clock().date():
            writer = await asyncio.to_thread(self._of_today)
        return await writer.append(kind, record)

    def _of_today(self) -> JournalWriter:
        with self._lock:
            today = self._clock().date()
            if self._closed:
                raise JournalError("The journal is closed (log_unavailable): the gateway is shutting down.")
            if self._writer is None or self._day != today:
                fresh = JournalWriter(
                    self._root,
                    role="private",
                    mode=self._mode,
                    group_window_ms=self._window_ms,
                    disk=self._disk,
                    clock=self._clock,
                )
                old, self._writer, self._day = self._writer, fresh, today
                if old is not None:
                    old.close()  # writes what waits: whoever appended to it is answered
            return self._writer

    async def aclose(self) -> None:
        """Write what waits and let go. Safe to repeat."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            if self._writer is not None:
                self._writer.close()


def sweep(root: Path, keep_days: float, now: datetime) -> int:
    """Remove the folders of ended writers whose first record is older than `keep_days`; how many went.

    `now` is UTC. Safe beside writers and to repeat; a folder that can't be removed is tried again by the next sweep.
    """
    removed = 0
    for worker in list_workers(root):
        if is_worker_alive(worker):
            continue
        if now - _began(worker) > timedelta(days=keep_days):
            shutil.rmtree(worker, ignore_errors=True)
            removed += not worker.exists()
    return removed


def _began(worker: Path) -> datetime:
    """When a folder's first segment was begun; by the file system where its header can't be read."""
    for segment in list_segments(worker):
        frame = read_frame(segment.path, 0)
        if isinstance(frame, Frame) and frame.kind == FrameKind.SEGMENT_HEADER:
            try:
                return datetime.fromisoformat(orjson.loads(frame.payload)["time"]).astimezone(UTC)
            except (ValueError, KeyError, TypeError):
                pass
        return datetime.fromtimestamp(segment.path.stat().st_mtime, UTC)
    return datetime.fromtimestamp(worker.stat().st_mtime, UTC)
