"""Embeddings kept by content, so that a rebuild embeds only what changed and a stopped build goes on.

One append-only file per embedder and revision below `index/cache/`: fixed records of sha256(passage) and the
vector. In memory it costs 16 bytes a vector. Invariant: a record is used only when it is whole, its vector has
length 1 and its whole key is the passage's; a torn tail is cut off. Not safe for two writers: the index's build lock
is held by the caller. May be deleted at any time.
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
from serving.mapped import release

_BATCH = 64  # passages between two appends: about 4 s of work on one core is lost by a kill
_SCAN_ROWS = 16384  # records that are checked at once when a cache is opened
_MERGE_AT = 65536  # new keys held in a dictionary before they are sorted in


def passage_key(passage: str) -> bytes:
    """32 bytes that name a passage's content."""
    return hashlib.sha256(passage.encode("utf-8")).digest()


def _prefix(key: bytes) -> int:
    return int.from_bytes(key[:8], "little")


class VectorCache:
    """Vectors of one embedder by the sha256 of the passage."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        slug = re.sub(r"[^A-Za-z0-9.-]+", "_", encoder.name)[-60:]
        tail = hashlib.sha256(f"{encoder.name}\n{encoder.revision}\n{encoder.dim}".encode()).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{slug}-{tail}.vec"
        self._encoder = encoder
        self._dtype = np.dtype([("key", "V32"), ("vector", "<f4", (encoder.dim,))])
        # The first 8 bytes of the keys, sorted, and where each record lies; the record's whole key decides.
        self._prefixes: NDArray[np.uint64] = np.zeros(0, dtype=np.uint64)
        self._rows: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._fresh: dict[int, int] = {}
        self._records: NDArray[Any] = np.zeros(0, dtype=self._dtype)
        self._count = 0
        self._open()

    def _open(self) -> None:
        size = self._path.stat().st_size if self._path.exists() else 0
        self._count = size // self._dtype.itemsize
        if size % self._dtype.itemsize:
            with self._path.open("r+b") as handle:
                handle.truncate(self._count * self._dtype.itemsize)
        self._map()
        prefixes: list[NDArray[np.uint64]] = []
        rows: list[NDArray[np.int64]] = []
        for start in range(0, self._count, _SCAN_ROWS):
            block = self._records[start : start + _SCAN_ROWS]
            good = np.flatnonzero(np.abs(np.linalg.norm(block["vector"], axis=1) - 1.0) < 1e-3)
            keys = np.frombuffer(np.ascontiguousarray(block["key"]).tobytes(), dtype="<u8").reshape(-1, 4)
            prefixes.append(keys[good, 0])
            rows.append(good + start)
            release(self._records)
        if rows:
            self._merge(np.concatenate(prefixes), np.concatenate(rows))

    def _map(self) -> None:
        if self._count:
            self._records = np.memmap(self._path, dtype=self._dtype, mode="r", shape=(self._count,)).view(np.ndarray)

    def _merge(self, prefixes: NDArray[np.uint64], rows: NDArray[np.int64]) -> None:
        prefixes, rows = np.concatenate([self._prefixes, prefixes]), np.concatenate([self._rows, rows])
        order = np.argsort(prefixes, kind="stable")
        self._prefixes, self._rows = prefixes[order], rows[order]

    def _find(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Record of each key, -1 where there is none."""
        wanted = np.array([_prefix(key) for key in keys], dtype=np.uint64)
        found = np.full(len(keys), -1, dtype=np.int64)
        if len(self._prefixes):
            place = np.searchsorted(self._prefixes, wanted)
            place[place == len(self._prefixes)] = 0
            found = np.where(self._prefixes[place] == wanted, self._rows[place], -1)
        for number in np.flatnonzero(found < 0).tolist():
            found[number] = self._fresh.get(int(wanted[number]), -1)
        if len(self._records) < self._count and bool((found >= len(self._records)).any()):
            self._map()
        for number in np.flatnonzero(found >= 0).tolist():
            if self._records["key"][found[number]].tobytes() != keys[number]:
                found[number] = -1
        return found

    def encode(
        self, passages: Sequence[str], on_progress: Callable[[int], None] = lambda _: None
    ) -> tuple[Vectors, int]:
        """(float32 [n, dim] in the order of `passages`, how many were embedded now and not reused).

        `on_progress` gets the number of passages done since the last call. A large catalogue comes in blocks.
        """
        keys = [passage_key(passage) for passage in passages]
        found = self._find(keys)
        out = np.zeros((len(passages), self._encoder.dim), dtype=np.float32)
        known = np.flatnonzero(found >= 0)
        if len(known):
            out[known] = self._records["vector"][found[known]]
            release(self._records)
        on_progress(len(known))
        missing: dict[bytes, list[int]] = {}
        for position in np.flatnonzero(found < 0).tolist():
            missing.setdefault(keys[position], []).append(position)
        todo = list(missing.items())
        for start in range(0, len(todo), _BATCH):
            batch = todo[start : start + _BATCH]
            vectors = self._encoder.encode_passages([passages[positions[0]] for _, positions in batch])
            self._append([key for key, _ in batch], vectors)
            for (_, positions), vector in zip(batch, vectors, strict=True):
                out[positions] = vector
            on_progress(sum(len(positions) for _, positions in batch))
        return out, len(todo)

    def _append(self, keys: Sequence[bytes], vectors: Vectors) -> None:
        records = np.zeros(len(keys), dtype=self._dtype)
        records["key"] = np.frombuffer(b"".join(keys), dtype="V32")
        records["vector"] = vectors
        with self._path.open("ab") as handle:
            handle.write(records.tobytes())
        for number, key in enumerate(keys):
            self._fresh[_prefix(key)] = self._count + number
        self._count += len(keys)
        if len(self._fresh) >= _MERGE_AT:
            self._merge(
                np.fromiter(self._fresh, dtype=np.uint64, count=len(self._fresh)),
                np.fromiter(self._fresh.values(), dtype=np.int64, count=len(self._fresh)),
            )
            self._fresh.clear()
