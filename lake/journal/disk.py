"""The five system calls a journal writer depends on, as a seam: tests put a failing disk in their place.

Invariant of `OsDisk`: a segment is created, never opened again; errors pass through as `OSError`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from lake.files import fsync_dir


class Disk(Protocol):
    """What the writer asks of the operating system. Each call may raise `OSError`; `write` may be short."""

    def create(self, path: Path) -> int: ...

    def write(self, fd: int, data: memoryview) -> int: ...

    def fdatasync(self, fd: int) -> None: ...

    def sync_dir(self, path: Path) -> None: ...

    def close(self, fd: int) -> None: ...


class OsDisk:
    """The real one."""

    def create(self, path: Path) -> int:
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def write(self, fd: int, data: memoryview) -> int:
        return os.write(fd, data)

    def fdatasync(self, fd: int) -> None:
        os.fdatasync(fd)

    def sync_dir(self, path: Path) -> None:
        fsync_dir(path)

    def close(self, fd: int) -> None:
        os.close(fd)


def write_all(disk: Disk, fd: int, data: bytes) -> None:
    """Write every byte, whatever pieces the disk takes. Raises `OSError`; then part of it may be written."""
    rest = memoryview(data)
    while rest:
        done = disk.write(fd, rest)
        if done <= 0:
            raise OSError(5, "the disk took no bytes and gave no reason")
        rest = rest[done:]
