"""safetensors files read tensor by tensor with numpy alone: no torch, no copy of the whole file in memory.

numpy has no bfloat16, so its bits are widened to float32 by hand (exact). Every header is checked before a byte
of data is touched: known dtype, finite shape, data inside the file and as long as the shape says.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import orjson

from lake.errors import InputError

Float32 = npt.NDArray[np.float32]
_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors itself
_MAX_DIM = 1 << 31


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies; `start` is its offset in the file, bytes."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    size_bytes: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of a safetensors file. Raises `InputError` where the header is not sound."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(8)
        length = cast(int, struct.unpack("<Q", head)[0]) if len(head) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise InputError(f"{path} is not a whole safetensors file: copy or make it again.")
        try:
            header: Any = orjson.loads(handle.read(length))
        except orjson.JSONDecodeError as error:
            raise InputError(f"{path} has a damaged safetensors header: copy or make it again.") from error
    if not isinstance(header, dict):
        raise InputError(f"{path} has a damaged safetensors header: copy or make it again.")
    entries: dict[str, TensorEntry] = {}
    expected = 0
    listed = [(name, entry) for name, entry in cast(dict[str, Any], header).items() if name != "__metadata__"]
    try:
        listed.sort(key=lambda item: item[1]["data_offsets"][0])
        for name, entry in listed:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            if dtype not in _BYTES:
                raise InputError(f"{path}: tensor {name} is {dtype}; only F32, F16 and BF16 are taken.")
            if not all(type(dim) is int and 0 < dim < _MAX_DIM for dim in shape):
                raise InputError(f"{path}: tensor {name} has the impossible shape {shape}.")
            if begin != expected or end - begin != math.prod(shape) * _BYTES[dtype]:
                raise InputError(f"{path}: the data of tensor {name} does not fit its shape {shape}.")
            entries[name] = TensorEntry(path, dtype, tuple(shape), 8 + length + begin, end - begin)
            expected = end
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"{path} has a damaged safetensors header ({error!r}): copy or make it again.") from error
    if not entries or 8 + length + expected != size:
        raise InputError(f"{path} is truncated or has bytes too many: copy or make it again.")
    return entries


class Weights:
    """The tensors of one safetensors file, or of all of them in a checkpoint folder (shards)."""

    def __init__(self, path: Path) -> None:
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        self._entries: dict[str, TensorEntry] = {}
        for file in files:
            self._entries.update(read_header(file))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def entry(self, name: str) -> TensorEntry:
        return self._entries[name]

    def raw(self, name: str) -> npt.NDArray[np.uint8]:
        """The stored bytes, memory-mapped: uint8 [size_bytes]."""
        entry = self._entries[name]
        return np.memmap(entry.file, dtype=np.uint8, mode="r", offset=entry.start, shape=(entry.size_bytes,))

    def read(self, name: str) -> Float32:
        """One tensor as float32 in its stored shape, a copy."""
        return self.read_rows(name, 0, self._entries[name].shape[0])

    def read_rows(self, name: str, begin: int, end: int) -> Float32:
        """Rows begin..end of the first dimension as float32, a copy; only they are read."""
        entry = self._entries[name]
        row_bytes = entry.size_bytes // entry.shape[0]
        raw = self.raw(name)[begin * row_bytes : end * row_bytes]
        shape = (end - begin, *entry.shape[1:])
        if entry.dtype == "F32":
            return np.array(raw).view("<f4").astype(np.float32, copy=False).reshape(shape)
        if entry.dtype == "F16":
            return np.array(raw).view("<f2").astype(np.float32).reshape(shape)
        return (np.array(raw).view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(shape)


def to_bfloat16(values: Float32) -> npt.NDArray[np.uint16]:
    """The bits of `values` rounded to bfloat16 (to nearest, ties to even); values must be finite."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype(np.uint16)
