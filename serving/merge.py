"""The arithmetic of a merge: W + scale * B @ A, in float32, row block by row block. numpy only.

Reads the unquantised checkpoint and the adapter's safetensors. Nothing is written here but a merged checkpoint
folder for the converter, in the number format that the checkpoint had.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lake.adapter_files import WEIGHTS
from serving.adapter_checks import AdapterFacts, tensor_name
from serving.weights import Float32, Weights, to_bfloat16

BLOCK_VALUES = 1 << 23  # 32 MiB of float32 at a time


class Merged:
    """The tensors of base plus adapter, by the base's names; memory is one block and one A and B."""

    def __init__(self, base: Weights, facts: AdapterFacts) -> None:
        self.base = base
        self._adapter = Weights(facts.folder / WEIGHTS)
        self._scale = np.float32(facts.scale)
        self._modules = frozenset(facts.modules)

    def blocks(self, name: str) -> Iterator[tuple[int, Float32]]:
        """(first row, float32 [rows, ...]) until the tensor `name` is through."""
        shape = self.base.shape(name)
        step = max(1, BLOCK_VALUES // max(1, int(np.prod(shape[1:]))))
        module = name.removesuffix(".weight")
        touched = name.endswith(".weight") and module in self._modules
        a = self._adapter.read(tensor_name(module, "A")) if touched else None
        b = self._adapter.read(tensor_name(module, "B")) if touched else None
        for begin in range(0, shape[0], step):
            end = min(begin + step, shape[0])
            block = self.base.read_rows(name, begin, end)
            if a is not None and b is not None:
                block += self._scale * (b[begin:end] @ a)
            yield begin, block

    def tensor(self, name: str) -> Float32:
        """One whole merged tensor, float32."""
        return np.concatenate([block for _, block in self.blocks(name)])


def _stored(block: Float32, dtype: str) -> bytes:
    if dtype == "BF16":
        return to_bfloat16(block).astype("<u2").tobytes()
    return block.astype("<f2" if dtype == "F16" else "<f4").tobytes()


def write_merged_folder(merged: Merged, hf_dir: Path, out_dir: Path) -> None:
    """A Hugging Face folder like `hf_dir` with merged weights in one file `model.safetensors`."""
    out_dir.mkdir(parents=True)
    for file in hf_dir.iterdir():
        if file.is_file() and not file.name.endswith((".safetensors", ".safetensors.index.json")):
            shutil.copyfile(file, out_dir / file.name)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name in merged.base:
        entry = merged.base.entry(name)
        end = offset + entry.size_bytes
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (out_dir / "model.safetensors").open("wb") as handle:
        handle.write(struct.pack("<Q", len(text)) + text)
        for name in merged.base:
            dtype = merged.base.entry(name).dtype
            for _, block in merged.blocks(name):
                handle.write(_stored(block, dtype))
