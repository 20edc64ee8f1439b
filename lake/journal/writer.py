"""Durable appends for one worker: one thread, one open segment, group commit.

Writes `<root>/<role>-<pid>-<boot>/`. Callers queue encoded frames; the thread takes all that gathered while
the last fdatasync ran, writes them in one piece and syncs once. A record that nobody waits for yet may be held
for a moment (`submit`), so that the next one takes it along: one sync for both halves of a quick request.
Invariants: in `sync` mode an append returns only after its bytes are synced; frames lie in the order of their
numbers; what fails is reported to every waiter of that batch and never retried on the same descriptor, and no
record is written whose first half failed; a caller that is cancelled still gets its record written; the queue
is bounded.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast

import orjson

from lake.errors import JournalError
from lake.journal.disk import Disk, OsDisk
from lake.journal.frames import FrameTooLargeError, encode
from lake.journal.pending import FramePosition, JournalCounters, Pending, Result, resolve
from lake.journal.segments import SegmentFiles, create_worker_dir
from lake.schemas.records import FrameKind, Record

Mode = Literal["sync", "group"]
SEGMENT_MAX_BYTES = 64 << 20
QUEUE_MAX_BYTES = 16 << 20
_BATCH_MAX_BYTES = 4 << 20  # one write; longer ones only delay the sync of those that wait


class JournalWriter:
    """Journal of one process. Thread-safe; use it from any number of tasks and threads, and `close` it.

    `group_window_ms` (group mode): longest time a written record waits for its fdatasync.
    `queue_max_bytes`: appends are refused once more than this waits. `stall_after_s`: `healthy` turns false
    while one system call takes longer. Raises `JournalError` where no segment can be created at the start.
    """

    def __init__(
        self,
        root: Path,
        *,
        role: str,
        mode: Mode = "sync",
        group_window_ms: float = 50.0,
        segment_max_bytes: int = SEGMENT_MAX_BYTES,
        queue_max_bytes: int = QUEUE_MAX_BYTES,
        stall_after_s: float = 1.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        disk: Disk | None = None,
    ) -> None:
        self.on_sync: Callable[[float], None] = lambda _: None  # told how long each sync took, on the writer's thread
        self._mode = mode
        self._window_s = group_window_ms / 1000
        self._queue_max_bytes = queue_max_bytes
        self._stall_after_s = stall_after_s
        self._clock = clock
        self._queue: deque[Pending] = deque()
        self._hurry = False  # something in the queue is waited for
        self._current: list[Pending] = []
        self._wake = threading.Condition()
        self._closing = False
        self._failing = False
        self._busy_since: float | None = None
        self._dirty_since: float | None = None  # group mode: the oldest unsynced write
        self._seq = 0
        self._waiting_bytes = self._records = self._bytes = self._syncs = self._failures = self._rejected = 0
        try:
            self.directory, self._lock = create_worker_dir(root, role)
        except OSError as error:
            raise _unavailable(error, root) from error
        self._files = SegmentFiles(self.directory, disk or OsDisk(), clock, segment_max_bytes)
        try:
            self._files.open_next()
        except OSError as error:
            self._unlock()
            raise _unavailable(error, self.directory) from error
        self._thread = threading.Thread(target=self._run, name=f"journal-{role}", daemon=True)
        self._thread.start()

    def submit(
        self, kind: FrameKind, record: Record | dict[str, Any], *, hold_s: float = 0.0, follows: Pending | None = None
    ) -> Pending:
        """Queue one record from the event loop; await the `future` of what is returned, or read its exception.

        `record` becomes JSON as it is now. `hold_s` (sync mode): it may wait that long for one that is waited for, and
        is written with it. `follows`: where that record failed, this one is not written and fails too. Raises
        `JournalError` where it can't be queued; the record may still be found in the journal when its future fails
        (the outcome is unknown), so a caller refuses the request. Cancelling does not cancel the write. Not idempotent.
        """
        loop = asyncio.get_running_loop()
        pending = self._submit(kind, record, loop.create_future(), loop, follows)
        if hold_s > 0 and self._mode == "sync":
            loop.call_later(hold_s, self._release, pending)
        else:  # once the loop has done what is ready: the thread would wait for the interpreter until then anyway
            loop.call_soon(self._release, pending)
        return pending

    async def append(self, kind: FrameKind, record: Record | dict[str, Any]) -> FramePosition:
        """Write one record. Durable on return in `sync` mode, written in `group` mode. Otherwise as `submit`."""
        return await cast("asyncio.Future[FramePosition]", self.submit(kind, record).future)

    def append_blocking(self, kind: FrameKind, record: Record | dict[str, Any]) -> FramePosition:
        """`append` for threads; never call it on an event loop."""
        future: Future[FramePosition] = Future()
        self._release(self._submit(kind, record, future, None))
        return future.result()

    async def probe(self) -> bool:
        """Whether appends can work now; tries to open a new segment where the last one failed.

        For readiness checks: a refused gateway gets no traffic, so nothing else would notice that the disk
        has room again. May take as long as one sync.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[FramePosition] = loop.create_future()
        with self._wake:
            if self._closing or not self._failing:
                return self.healthy
            self._queue.append(Pending(b"", 0, future, loop))
            self._hurry = True
            self._wake.notify()
        try:
            await future
        except JournalError:
            return False
        return self.healthy

    @property
    def healthy(self) -> bool:
        """False after a failed write or sync until one succeeds, while one hangs, and once closed."""
        busy = self._busy_since
        stalled = busy is not None and time.monotonic() - busy > self._stall_after_s
        return not (self._failing or self._closing or stalled or not self._thread.is_alive())

    @property
    def window_s(self) -> float:
        """Longest that an acknowledged record may stay unsynced: 0 in sync mode."""
        return self._window_s if self._mode == "group" else 0.0

    @property
    def unsynced_s(self) -> float:
        """Age of the oldest acknowledged record that a power cut would lose now; always 0 in sync mode."""
        since = self._dirty_since
        return time.monotonic() - since if since is not None else 0.0

    @property
    def counters(self) -> JournalCounters:
        return JournalCounters(
            self._records, self._bytes, self._syncs, self._failures, self._rejected, self._waiting_bytes
        )

    def close(self) -> None:
        """Write what waits, a WORKER_END frame, and let the lock go. Blocks; safe to repeat."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    async def aclose(self) -> None:
        """`close` off the event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(
        self,
        kind: FrameKind,
        record: Record | dict[str, Any],
        future: Future[FramePosition] | asyncio.Future[FramePosition],
        loop: asyncio.AbstractEventLoop | None,
        follows: Pending | None = None,
    ) -> Pending:
        try:
            data = orjson.dumps(record)
        except orjson.JSONEncodeError as error:
            raise JournalError(f"The record is not JSON ({error}): fix the field and send it again.") from error
        with self._wake:
            if self._closing:
                raise JournalError("The journal is closed (log_unavailable): the gateway is shutting down.")
            if self._waiting_bytes + len(data) > self._queue_max_bytes:
                self._rejected += 1
                raise JournalError(
                    f"The journal is behind (log_unavailable): {self._waiting_bytes} bytes wait for the "
                    "disk. Send less, or put MULLE_DATA_DIR on a faster disk.",
                    waiting_bytes=self._waiting_bytes,
                )
            try:
                frame = encode(kind, self._seq + 1, data)
            except FrameTooLargeError as error:
                raise JournalError(f"The record does not fit the journal ({error}): shorten it.") from error
            self._seq += 1
            self._waiting_bytes += len(frame)
            pending = Pending(frame, self._seq, future, loop, follows)
            self._queue.append(pending)
            return pending

    def _release(self, pending: Pending) -> None:
        """From now on the record is waited for. `_hurry` is true only while something in the queue is."""
        if pending.taken:
            return
        with self._wake:
            if not (pending.taken or self._hurry):
                self._hurry = True
                self._wake.notify()

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                if batch:
                    self._current = batch
                    self._write(batch)
                elif self._dirty_since is not None:
                    self._sync_group()
            self._end()
        finally:
            with self._wake:
                self._closing = True
                left = [*self._current, *self._queue]  # those already answered are skipped
                self._queue.clear()
            self._fail(left, JournalError("The journal thread ended (log_unavailable): restart the gateway."))
            self._unlock()

    def _unlock(self) -> None:
        with suppress(OSError):  # Linux frees the descriptor, and with it the lock, even where close reports an error
            os.close(self._lock)

    def _next_batch(self) -> list[Pending] | None:
        """What waits, as far as it fits one write; empty where a group sync is due; None at the end."""
        with self._wake:
            while not (self._queue and (self._hurry or self._closing)):
                if self._closing:
                    return None
                left_s = None
                if self._dirty_since is not None:
                    left_s = self._dirty_since + self._window_s - time.monotonic()
                    if left_s <= 0:
                        return []
                self._wake.wait(left_s)
            if self._dirty_since is not None and time.monotonic() - self._dirty_since >= self._window_s:
                return []
            batch = [self._queue.popleft()]
            room = min(_BATCH_MAX_BYTES, self._files.room()) - len(batch[0].frame)
            while self._queue and len(self._queue[0].frame) <= room:
                room -= len(self._queue[0].frame)
                batch.append(self._queue.popleft())
            self._hurry = bool(self._queue)
            for item in batch:
                item.taken = True
            return batch

    def _write(self, batch: list[Pending]) -> None:
        orphans = [item for item in batch if item.follows is not None and item.follows.failed]
        if orphans:
            self._fail(orphans, JournalError("The record before this one could not be written (log_unavailable)."))
            batch = [item for item in batch if not item.failed]
            if not batch:
                return
        data = b"".join(item.frame for item in batch)
        seqs = [item.seq for item in batch if item.frame]
        self._busy_since = time.monotonic()
        wrote = False
        try:
            if self._files.is_open and self._files.is_full_for(len(batch[0].frame)):
                self._rotate()
            if not self._files.is_open:
                self._files.open_next()
            wrote = bool(data)
            offset = self._files.write(data) if data else self._files.size
            if self._mode == "sync" and data:
                self._sync()
        except OSError as error:
            self._failures += 1
            self._failing = True
            self._dirty_since = None
            self._files.abandon((seqs[0], seqs[-1]) if wrote else None)
            self._fail(batch, _unavailable(error, self.directory))
            return
        finally:
            self._busy_since = None
        if self._mode == "group" and data and self._dirty_since is None:
            self._dirty_since = time.monotonic()
        self._failing = False
        self._records += sum(1 for item in batch if item.frame)
        self._bytes += len(data)
        results: list[Result] = []
        for item in batch:
            results.append((item, FramePosition(self._files.name, offset, item.seq)))
            offset += len(item.frame)
        self._settle(results)

    def _rotate(self) -> None:
        """End the full segment. The records in it were acknowledged already, those of the batch go to the
        next.
        """
        if self._dirty_since is not None:
            self._sync()
            self._dirty_since = None
        self._files.close()

    def _sync(self) -> None:
        began = time.monotonic()
        self._files.sync()
        self._syncs += 1
        self.on_sync(time.monotonic() - began)

    def _sync_group(self) -> None:
        self._busy_since = time.monotonic()
        try:
            self._sync()
        except OSError:
            # Acknowledged within the promise of this mode; the count and `healthy` tell the operator.
            self._failures += 1
            self._failing = True
            self._files.abandon(None)
        finally:
            self._busy_since = None
            self._dirty_since = None

    def _end(self) -> None:
        self._seq += 1
        end = orjson.dumps({"time": self._clock().isoformat(), "records": self._records})
        try:
            if self._files.is_open:
                self._files.write(encode(FrameKind.WORKER_END, self._seq, end))
                self._sync()
                self._files.close()
        except OSError:
            self._failures += 1  # nobody waits for this frame; the freed lock says the same
            self._files.abandon(None)

    def _fail(self, batch: list[Pending], error: JournalError) -> None:
        for item in batch:
            item.failed = True
        self._settle([(item, JournalError(str(error), **error.detail)) for item in batch])

    def _settle(self, results: list[Result]) -> None:
        with self._wake:
            self._waiting_bytes -= sum(len(item.frame) for item, _ in results)
        by_loop: dict[asyncio.AbstractEventLoop, list[Result]] = {}
        for item, result in results:
            if item.loop is None:
                resolve([(item, result)])
            else:
                by_loop.setdefault(item.loop, []).append((item, result))
        for loop, own in by_loop.items():
            try:
                loop.call_soon_threadsafe(resolve, own)
            except RuntimeError:  # the loop is closed: nobody waits any more, the records are written
                continue


def _unavailable(error: OSError, where: Path) -> JournalError:
    return JournalError(
        f"The journal can't be written (log_unavailable): {error.strerror or error} at {where}. Free some "
        "space or check the disk; the next request tries a new segment, no restart is needed.",
        errno=error.errno,
        path=str(where),
    )
