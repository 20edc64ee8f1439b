"""Embeddings kept by content, so that a rebuild embeds only what changed and a stopped build goes on.

One append-only file per embedder and revision below `index/cache/`: fixed records of sha256(passage) and the
vector. Invariant: a record is used only when it is whole and its vector has length 1; a torn tail is cut off.
Not safe for two writers: the index's build lock is held by the caller. May be deleted at any time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.encoders import Encoder, Vectors

_BATCH = 64  # passages between two appends: about 4 s of work on one core is lost by a kill


def passage_key(passage: str) -> bytes:
    """32 bytes that name a passage's content."""
    return hashlib.sha256(passage.encode("utf-8")).digest()


class VectorCache:
    """Vectors of one embedder by the sha256 of the passage."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        slug = re.sub(r"[^A-Za-z0-9.-]+", "_", encoder.name)[-60:]
        tail = hashlib.sha256(f"{encoder.name}\n{encoder.revision}\n{encoder.dim}".encode()).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{slug}-{tail}.vec"
        self._encoder = encoder
        self._dtype = np.dtype([("key", "V32"), ("vector", "<f4", (encoder.dim,))])
        self._rows: dict[bytes, int] = {}
        self._vectors: NDArray[Any] = np.zeros((0, encoder.dim), dtype=np.float32)
        self._load()

    def _load(self) -> None:
        if not self._path.exists():
            return
        whole = self._path.stat().st_size // self._dtype.itemsize
        if self._path.stat().st_size % self._dtype.itemsize:
            with self._path.open("r+b") as handle:
                handle.truncate(whole * self._dtype.itemsize)
        if not whole:
            return
        records: NDArray[Any] = np.memmap(self._path, dtype=self._dtype, mode="r", shape=(whole,))
        self._vectors = records["vector"]
        lengths = np.linalg.norm(self._vectors, axis=1)
        for row in np.flatnonzero(np.abs(lengths - 1.0) < 1e-3):
            self._rows[records["key"][row].tobytes()] = int(row)

    def encode(
        self, passages: Sequence[str], on_progress: Callable[[int], None] = lambda _: None
    ) -> tuple[Vectors, int]:
        """(float32 [n, dim] in the order of `passages`, how many were embedded now and not reused)."""
        keys = [passage_key(passage) for passage in passages]
        out = np.zeros((len(passages), self._encoder.dim), dtype=np.float32)
        missing: dict[bytes, list[int]] = {}
        for position, key in enumerate(keys):
            row = self._rows.get(key)
            if row is None:
                missing.setdefault(key, []).append(position)
            else:
                out[position] = self._vectors[row]
        on_progress(len(passages) - sum(map(len, missing.values())))
        todo = list(missing.items())
        for start in range(0, len(todo), _BATCH):
            batch = todo[start : start + _BATCH]
            vectors = self._encoder.encode_passages([passages[positions[0]] for _, positions in batch])
            records = np.zeros(len(batch), dtype=self._dtype)
            for number, (key, positions) in enumerate(batch):
                records[number] = (np.void(key), vectors[number])
                out[positions] = vectors[number]
            with self._path.open("ab") as handle:
                handle.write(records.tobytes())
            on_progress(sum(len(positions) for _, positions in batch))
        return out, len(todo)
