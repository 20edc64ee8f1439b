"""Journals a fixed list of records while somebody makes its system calls fail; tells the outcome in shared memory.

    python -m tests.faults.syscall_victim <journal root> <sync|group> <outcome file> [planted bug]

Prints `ready`, waits for a line (so that a tracer can attach after all imports), then makes no call but the journal's:
outcomes go into a mapped file, byte n for record n: 1 acknowledged, 2 refused; the byte after the last: 1 reached the
end, 2 no journal could be opened.
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


def main(root: Path, mode: str, outcome_file: Path, bug: str = "") -> None:
    disk = {"": OsDisk, "stubborn": Stubborn, "careless": Careless}[bug]()
    handle = outcome_file.open("r+b")
    outcomes = mmap.mmap(handle.fileno(), RECORDS + 1)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        writer = JournalWriter(root, role="w", mode=mode, group_window_ms=1, segment_max_bytes=350, disk=disk)  # type: ignore[arg-type]
    except JournalError:
        outcomes[RECORDS] = 2
    else:
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
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
