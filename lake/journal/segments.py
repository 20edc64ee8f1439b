"""The writer's files: worker directory with its lock, and one segment at a time. Used by one thread only.

Reads nothing, writes `<root>/<role>-<pid>-<boot>/lock` and `<8 digits>.mjl`. Invariant: a descriptor that
failed once is closed and never written or synced again (a second fsync answers OK and the bytes are gone),
and no number is used twice.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import orjson
from ulid import ULID

from lake.files import fsync_dir
from lake.journal.disk import Disk, write_all
from lake.journal.frames import SEGMENT_VERSION, encode
from lake.schemas.records import FrameKind

LOCK_NAME = "lock"
SEGMENT_SUFFIX = ".mjl"


def segment_name(number: int) -> str:
    """`00000001.mjl`."""
    return f"{number:08d}{SEGMENT_SUFFIX}"


def create_worker_dir(root: Path, role: str) -> tuple[Path, int]:
    """A new directory with its `lock` held exclusively by the returned descriptor (close it to let go).

    The directory gets its final name only once the lock is held, so no reader can take a starting worker for
    a dead one. Raises `OSError`.
    """
    root.mkdir(parents=True, exist_ok=True)
    name = f"{role}-{os.getpid()}-{ULID()}"
    hidden = root / f".{name}.tmp"
    hidden.mkdir()
    lock = os.open(hidden / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fsync_dir(hidden)
        hidden.rename(root / name)
        fsync_dir(root)
        fsync_dir(root.parent)
    except BaseException:
        os.close(lock)
        raise
    return root / name, lock


class SegmentFiles:
    """The open segment of one worker directory. Every method may raise `OSError`; `abandon` never does."""

    def __init__(self, directory: Path, disk: Disk, clock: Callable[[], datetime], max_bytes: int) -> None:
        self.directory = directory
        self.number = 0
        self.size = 0
        self._disk = disk
        self._clock = clock
        self._max_bytes = max_bytes
        self._fd: int | None = None
        self._records = 0
        self._failed: list[tuple[int, int]] = []

    @property
    def is_open(self) -> bool:
        return self._fd is not None

    @property
    def name(self) -> str:
        return segment_name(self.number)

    def is_full_for(self, size: int) -> bool:
        """Whether `size` more bytes belong into a new segment; one record always fits an empty one."""
        return self._records > 0 and self.size + size > self._max_bytes

    def room(self) -> int:
        return max(0, self._max_bytes - self.size)

    def open_next(self) -> None:
        """Create the next segment; its name and header frame are durable on return.

        The header names the sequence numbers that callers were told had failed although bytes of them may
        have reached the abandoned segment, so that an ingester need not wait for their second halves.
        """
        assert self._fd is None
        self.number += 1
        path = self.directory / self.name
        header = orjson.dumps(
            {
                "version": SEGMENT_VERSION,
                "worker": self.directory.name,
                "boot": self.directory.name.rsplit("-", 1)[-1],
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "segment": self.number,
                "time": self._clock().isoformat(),
                "failed": self._failed[-1000:],
            }
        )
        frame = encode(FrameKind.SEGMENT_HEADER, 0, header)
        fd = self._disk.create(path)
        try:
            write_all(self._disk, fd, frame)
            self._disk.fdatasync(fd)
            self._disk.sync_dir(self.directory)
        except OSError:
            with suppress(OSError):
                self._disk.close(fd)
            with suppress(OSError):  # holds no record; a full disk must not fill with empty segments
                path.unlink()
            raise
        self._fd, self.size, self._records = fd, len(frame), 0
        self._failed.clear()

    def write(self, data: bytes) -> int:
        """Append `data`; the offset at which it begins."""
        assert self._fd is not None
        offset = self.size
        write_all(self._disk, self._fd, data)
        self.size += len(data)
        self._records += 1
        return offset

    def sync(self) -> None:
        assert self._fd is not None
        self._disk.fdatasync(self._fd)

    def close(self) -> None:
        """Close a segment whose bytes are synced."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self._disk.close(fd)

    def abandon(self, failed: tuple[int, int] | None) -> None:
        """Give the descriptor up after an error; `failed`: first and last sequence number reported as
        failed.
        """
        fd, self._fd = self._fd, None
        if failed:
            self._failed.append(failed)
        if fd is not None:
            with suppress(OSError):
                self._disk.close(fd)
