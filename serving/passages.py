"""The passages of an index in an Arrow file that is mapped into memory, beside two small arrays.

Writes and reads `passages.arrow` (uncompressed Arrow IPC, one text column). Invariant: passage r belongs to the tool
whose span `chunk_start[i]:chunk_start[i + 1]` holds r; every tool has at least one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lake.tool_table import BATCH_ROWS, blocks, open_batches
from serving.chunks import KINDS, Chunk

SCHEMA = pa.schema([("text", pa.string())])


class PassageTable(Sequence[Chunk]):
    """Passages by number; immutable, thread-safe."""

    def __init__(self, path: Path, chunk_start: NDArray[np.int64], chunk_kind: NDArray[np.int8]) -> None:
        """Raises `ValueError` or `pa.ArrowException` where file and arrays do not fit together."""
        self._batches, self._length = open_batches(path, SCHEMA)
        sound = (
            self._length == len(chunk_kind) == int(chunk_start[-1])
            and int(chunk_start[0]) == 0
            and bool((np.diff(chunk_start) > 0).all())
            and int(chunk_kind.min(initial=0)) >= 0
            and int(chunk_kind.max(initial=0)) < len(KINDS)
        )
        if not sound:
            raise ValueError("the passages and their arrays do not fit together")
        self._start = chunk_start
        self._kind = chunk_kind

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._length))]
        if not 0 <= index < self._length:
            raise IndexError(index)
        text = self._batches[index // BATCH_ROWS].column(0)[index % BATCH_ROWS].as_py()
        owner = int(np.searchsorted(self._start, index, side="right")) - 1
        return Chunk(owner, KINDS[self._kind[index]], text)


def write_passages(path: Path, texts: Iterable[str]) -> int:
    """Write all texts, one batch in memory at a time; returns how many."""
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for block in blocks(texts):
            writer.write_batch(pa.record_batch([pa.array(block, type=pa.string())], schema=SCHEMA))
            count += len(block)
    return count
