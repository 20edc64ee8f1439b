"""Journals a fixed list of records while somebody makes its system calls fail; tells the outcome in shared memory.

    python -m tests.faults.syscall_victim <journal root> <sync|group> <start|running> <outcome file> [planted bug]

Prints `ready`, before the journal is opened or after, waits for a line (so that a tracer can attach), then makes no
call but the journal's: outcomes go into a mapped file, byte n for record n: 1 acknowledged, 2 refused; the byte after
the last: 1 reached the end, 2 no journal could be opened.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

from lake.errors import JournalError
from lake.journal.disk import OsDisk
from lake.journal.writer import JournalWriter
from lake.schemas.records import FrameKind

RECORDS = 14
ACKNOWLEDGED, REFUSED = 1, 2


class Stubborn(OsDisk):
    """Planted bug: a failed sync is tried once more on the same descriptor, whose second answer means nothing."""

    def fdatasync(self, fd: int) -> None:
        try:
            super().fdatasync(fd)
        except OSError:
            super().fdatasync(fd)


class Careless(OsDisk):
    """Planted bug: takes a failed write for a whole one."""

    def write(self, fd: int, data: memoryview) -> int:
        try:
            return super().write(fd, data)
        except OSError:
            return len(data)


def wait_for_tracer(now: bool) -> None:
    """Until a line comes, where this is the moment."""
    if now:
        print("ready", flush=True)
        sys.stdin.readline()


def main(root: Path, mode: str, phase: str, outcome_file: Path, bug: str = "") -> None:
    disk = {"": OsDisk, "stubborn": Stubborn, "careless": Careless}[bug]()
    handle = outcome_file.open("r+b")
    outcomes = mmap.mmap(handle.fileno(), RECORDS + 1)
    wait_for_tracer(phase == "start")
    try:
        writer = JournalWriter(root, role="w", mode=mode, group_window_ms=1, segment_max_bytes=350, disk=disk)  # type: ignore[arg-type]
    except JournalError:
        outcomes[RECORDS] = 2
    else:
        wait_for_tracer(phase == "running")
        for n in range(RECORDS):
            try:
                writer.append_blocking(FrameKind.REVIEW, {"n": n})
                outcomes[n] = ACKNOWLEDGED
            except JournalError:
                outcomes[n] = REFUSED
        writer.close()
        outcomes[RECORDS] = 1
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]), *sys.argv[5:])
