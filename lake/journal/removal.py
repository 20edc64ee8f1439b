"""Who may take segments away: readers that must see a whole journal share a lock, whoever removes holds it alone.

Writes `data/journal/.readers.lock`. Invariant: between two looks of an ingest no segment disappears. Writers and
look-ups take no part: a writer's own segment is never removed, and a look-up goes to the lake for what is gone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_NAME = ".readers.lock"
_POLL_S = 0.05


@contextmanager
def reading(journal_dir: Path) -> Iterator[None]:
    """Nothing is removed inside the block. Waits for a removal (milliseconds). Several may read at once."""
    if not journal_dir.is_dir():
        yield
        return
    descriptor = os.open(journal_dir / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def removing(journal_dir: Path, wait_s: float) -> Iterator[bool]:
    """Whether the journal is this block's alone; False where others still read after `wait_s`."""
    if not journal_dir.is_dir():
        yield True
        return
    descriptor = os.open(journal_dir / LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
    try:
        yield _alone(descriptor, time.monotonic() + wait_s)
    finally:
        os.close(descriptor)


def _alone(descriptor: int, until: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_S)
