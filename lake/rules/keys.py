"""Question keys as arrays: the first 16 bytes of the sha256 of the normalised question, 16 bytes a row. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lake.rules.shingles import I64, U64

Keys = np.ndarray[Any, np.dtype[np.bytes_]]  # dtype S16; ordered like the hex keys are

SIZE = 16
NONE: Keys = np.zeros(0, dtype="S16")


def keys_of(normalised: Sequence[str]) -> Keys:
    """Keys of texts that are normalised already."""
    return _array(b"".join([hashlib.sha256(text.encode()).digest()[:SIZE] for text in normalised]))


def from_hex(keys: Sequence[str]) -> Keys:
    """Keys out of `question_key`s. Raises `ValueError` for one that is not at least 32 hex digits."""
    raw = [bytes.fromhex(key[: 2 * SIZE]) for key in keys]
    if any(len(one) != SIZE for one in raw):
        raise ValueError("a question key has at least 32 hex digits")
    return _array(b"".join(raw))


def _array(data: bytes) -> Keys:
    return np.frombuffer(data, dtype="S16")


def to_bytes(keys: Keys) -> bytes:
    """All 16 bytes of each (numpy's own items lose zeros at the end)."""
    return np.ascontiguousarray(keys).tobytes()


def to_hex(keys: Keys) -> list[str]:
    """32 hex digits each: the beginning of the `question_key`."""
    text = to_bytes(keys).hex()
    return [text[first : first + 2 * SIZE] for first in range(0, len(text), 2 * SIZE)]


def heads(keys: Keys) -> U64:
    """The first eight bytes as a number: names a cluster after its smallest member."""
    return np.frombuffer(to_bytes(keys), dtype=">u8").reshape(-1, 2)[:, 0].astype(np.uint64)


def find(ordered: Keys, wanted: Keys) -> tuple[I64, npt.NDArray[np.bool_]]:
    """Where each wanted key stands in `ordered` (ascending, no repeats), and whether it does."""
    if not len(ordered):
        return np.zeros(len(wanted), dtype=np.int64), np.zeros(len(wanted), dtype=np.bool_)
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return at, ordered[at] == wanted
