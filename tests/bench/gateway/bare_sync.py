"""What one fdatasync costs here: the least that a durable record can.

Run by the bench: `python -m tests.bench.gateway.bare_sync FOLDER BYTES SECONDS`; prints the median in milliseconds.
Appends `BYTES` to a new file and syncs, again and again, one after the other; only the sync is timed.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path


def bare_sync_ms(folder: Path, size: int, seconds: float) -> float:
    """Median of the syncs within `seconds`, milliseconds."""
    taken_s: list[float] = []
    data = b"x" * size
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".sync") as file:
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end or not taken_s:
            os.write(file.fileno(), data)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            taken_s.append(time.perf_counter() - began)
    return statistics.median(taken_s) * 1000


if __name__ == "__main__":
    print(bare_sync_ms(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
