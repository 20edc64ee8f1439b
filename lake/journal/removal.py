"""Who may take segments away: readers that must see a whole journal share a lock, whoever removes holds it alone.

Writes `data/journal/.readers.lock` and `.turn.lock`. Invariants: between two looks of an ingest no segment
disappears; a removal that waits is let in before the next reader, so ingests that never pause don't keep it out.
Writers and look-ups take no part: a writer's own segment is never removed, and a look-up goes to the lake for what
is gone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCKS = (".turn.lock", ".readers.lock")  # who comes next; who is inside
_POLL_S = 0.05


@contextmanager
def reading(journal_dir: Path) -> Iterator[None]:
    """Nothing is removed inside the block. Waits for a removal (milliseconds). Several may read at once."""
    if not journal_dir.is_dir():
        yield
        return
    turn, inside = _open(journal_dir)
    try:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(inside, fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield
    finally:
        os.close(turn)
        os.close(inside)


@contextmanager
def removing(journal_dir: Path, wait_s: float) -> Iterator[bool]:
    """Whether the journal is this block's alone; False where others still read after `wait_s`."""
    if not journal_dir.is_dir():
        yield True
        return
    turn, inside = _open(journal_dir)
    until = time.monotonic() + wait_s
    try:
        yield _alone(turn, until) and _alone(inside, until)
    finally:
        os.close(turn)
        os.close(inside)


def _open(journal_dir: Path) -> tuple[int, int]:
    turn, inside = (os.open(journal_dir / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640) for name in LOCKS)
    return turn, inside


def _alone(descriptor: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_S)
