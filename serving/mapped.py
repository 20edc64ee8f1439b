"""Arrays and strings that stay on disk: mapped into memory, read where they are touched, given back on request.

Reads `.npy` files and byte files with offsets. Invariant: nothing here copies a whole file. Mappings stay valid
when their folder is removed, so an index in use outlives its files.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def map_array(path: Path) -> NDArray[Any]:
    """The array of a `.npy` file, read-only; raises `ValueError` for pickled content."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def release(array: NDArray[Any]) -> None:
    """Give the pages of a mapped array back to the system: they count no longer, and are read again when needed."""
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = base.base if isinstance(base, np.ndarray) else None
    if base is not None:
        base.madvise(mmap.MADV_DONTNEED)


def float_blocks(vectors: NDArray[Any], rows: int = 65536) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first row, contiguous float32 rows) of a stored matrix; one block in memory at a time."""
    for start in range(0, len(vectors), rows):
        yield start, np.ascontiguousarray(vectors[start : start + rows], dtype=np.float32)
        release(vectors)


class StringTable(Sequence[str]):
    """Strings in a mapped byte file, number i at `offsets[i]:offsets[i + 1]`; found by bisection where they are
    sorted. Thread-safe.
    """

    def __init__(self, data: mmap.mmap | bytes, offsets: NDArray[np.int64]) -> None:
        """Raises `ValueError` where the offsets leave the data."""
        falling = len(offsets) < 1 or bool((np.diff(offsets) < 0).any())
        if falling or int(offsets[0]) < 0 or int(offsets[-1]) > len(data):
            raise ValueError("the offsets of stored strings do not fit their bytes")
        self._data = data
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._bytes(index).decode("utf-8")

    def _bytes(self, number: int) -> bytes:
        return self._data[self._offsets[number] : self._offsets[number + 1]]

    def find(self, text: str) -> int | None:
        """Number of `text` in a sorted table; None where it is not there."""
        wanted = text.encode("utf-8", "surrogatepass")
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self._bytes(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self._bytes(low) == wanted else None


class StringWriter:
    """Several string tables in one byte file."""

    def __init__(self, path: Path) -> None:
        self._handle = path.open("wb")
        self._end = 0

    def add(self, strings: Iterable[str]) -> NDArray[np.int64]:
        """Write one table; returns its offsets in the file."""
        offsets = [self._end]
        for text in strings:
            self._end += self._handle.write(text.encode("utf-8", "surrogatepass"))
            offsets.append(self._end)
        return np.array(offsets, dtype=np.int64)

    def close(self) -> None:
        """Write what is left; an empty file gets a byte, since nothing can't be mapped."""
        if self._end == 0:
            self._handle.write(b"\0")
        self._handle.close()


def map_bytes(path: Path) -> mmap.mmap:
    """A whole file, mapped read-only."""
    with path.open("rb") as handle:
        return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)


def sorted_codes(codes: dict[str, int]) -> tuple[list[str], NDArray[np.int64]]:
    """(strings in order, new number of each old number)."""
    names = sorted(codes)
    renumbered = np.empty(len(names), dtype=np.int64)
    renumbered[np.fromiter((codes[name] for name in names), dtype=np.int64, count=len(names))] = np.arange(len(names))
    return names, renumbered
