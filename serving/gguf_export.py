"""One adapter merged into its base as a single GGUF, for LM Studio and llama.cpp, which load no LoRA adapters.

    python -m serving.gguf_export --adapter models/finetuned_adapter --out models/gguf/tuned.gguf --quant q8_0

Always merges into the unquantised checkpoint, never into quantised weights. A base that came as a GGUF is grafted:
its metadata (tokenizer, chat template) is copied and its tensors are replaced, so the tokenizer is that of the very
file which serves the base. Any other base goes through llama.cpp's converter. Writes the GGUF and, beside it, a
manifest `<name>.json`; each appears whole or not at all.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from lake.errors import SetupError
from lake.files import require_free_disk, sha256_file, write_json_atomic
from lake.settings import LakeSettings
from serving.adapter_checks import AdapterFacts, check_adapter
from serving.base_models import BaseModel, load_base
from serving.cli import exit_code
from serving.converter import convert
from serving.gguf_files import (
    CHAT_TEMPLATE,
    FILE_TYPE,
    atomic_output,
    copy_fields,
    field_value,
    open_gguf,
    write_with_template,
)
from serving.merge import Merged, write_merged_folder
from serving.settings import ServingSettings
from serving.vllm_server import LORA_RANKS
from serving.weights import Weights

QUANTS = {"f16": gguf.GGMLQuantizationType.F16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
_FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
_BYTES_A_VALUE = {"f16": 2.0, "q8_0": 34 / 32}
# How llama.cpp stores what differs from the checkpoint: Gemma's norms with 1 added, Llama's q and k rows regrouped.
_NORM_PLUS_ONE = frozenset({"gemma", "gemma2", "gemma3"})
_PERMUTED = frozenset({"llama"})
_PLAIN = frozenset({"qwen2", "qwen3"})
# Tensors that llama.cpp computes from the configuration; no merge touches them.
_COPIED = frozenset({"rope_freqs.weight"})

Note = Callable[[int, int, str], None]  # tensors done, tensors in all, name


def llama_row_order(rows: int, heads: int) -> npt.NDArray[np.int64]:
    """Row `i` of llama.cpp's q (or k) matrix is row `order[i]` of the checkpoint's; `heads` are those of q (or k)."""
    return np.arange(rows).reshape(heads, 2, rows // heads // 2).swapaxes(1, 2).reshape(rows)


def _names(reader: gguf.GGUFReader, architecture: str, weights: Weights) -> dict[str, str]:
    """GGUF tensor name -> checkpoint tensor name. Raises `SetupError` for an architecture not known here."""
    kind = next((key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture), None)
    if kind is None or architecture not in _NORM_PLUS_ONE | _PERMUTED | _PLAIN:
        known = ", ".join(sorted(_NORM_PLUS_ONE | _PERMUTED | _PLAIN))
        raise SetupError(
            f"A {architecture} GGUF can't be grafted (known: {known}): prepare its checkpoint with --from."
        )
    table = gguf.get_tensor_name_map(kind, int(field_value(reader, f"{architecture}.block_count")))
    found: dict[str, str] = {}
    for name in weights:
        target = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is not None:
            found[target] = name
    return found


def _encode(merged: Merged, name: str, kind: gguf.GGMLQuantizationType, add: float) -> npt.NDArray[Any]:
    """One tensor in its GGUF form, quantised block by block (rows are quantised independently)."""
    shape = merged.base.shape(name)
    parts: list[npt.NDArray[Any]] = []
    for _, block in merged.blocks(name):
        parts.append(gguf.quants.quantize(block + np.float32(add) if add else block, kind))
    data = np.concatenate(parts)
    if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
        return data.reshape(shape)
    return data


def _announce(
    base: BaseModel,
    merged: Merged,
    names: dict[str, str],
    writer: gguf.GGUFWriter,
    tensor: gguf.ReaderTensor,
    quant: str,
) -> gguf.GGMLQuantizationType | None:
    """Tell the writer the shape of one tensor; returns its new type, None where it is copied as it is."""
    if tensor.name in _COPIED:
        data = tensor.data
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
        return None
    shape: tuple[int, ...] = tuple(int(dim) for dim in reversed(tensor.shape))
    if tensor.name not in names or merged.base.shape(names[tensor.name]) != shape:
        raise SetupError(f"{base.name}: the checkpoint has no tensor for {tensor.name} {shape} of its GGUF.")
    kind = QUANTS[quant] if len(shape) > 1 else gguf.GGMLQuantizationType.F32
    if kind == gguf.GGMLQuantizationType.Q8_0 and int(tensor.shape[0]) % 32:  # Q8_0 works on blocks of 32 values
        kind = gguf.GGMLQuantizationType.F16
    if kind == gguf.GGMLQuantizationType.Q8_0:
        stored = gguf.quant_shape_to_byte_shape(shape, kind)
        writer.add_tensor_info(tensor.name, stored, np.dtype(np.uint8), int(np.prod(stored)), kind)
    else:
        dtype = np.dtype(np.float32 if kind == gguf.GGMLQuantizationType.F32 else np.float16)
        writer.add_tensor_info(tensor.name, shape, dtype, int(np.prod(shape)) * dtype.itemsize, kind)
    return kind


def _graft(base: BaseModel, merged: Merged, out_path: Path, quant: str, facts: dict[str, str], note: Note) -> None:
    reader = open_gguf(base.gguf_path)
    arch = base.architecture
    names = _names(reader, arch, merged.base)
    heads = int(field_value(reader, f"{arch}.attention.head_count"))
    kv_heads = int(field_value(reader, f"{arch}.attention.head_count_kv") or heads)
    if "output.weight" not in names and "token_embd.weight" in names:
        names["output.weight"] = names["token_embd.weight"]  # tied, should the base GGUF hold both
    with atomic_output(out_path) as temporary, closing(gguf.GGUFWriter(temporary, arch=arch)) as writer:
        copy_fields(reader, writer, {FILE_TYPE: int(_FILE_TYPES[quant]), **facts})
        kinds = [_announce(base, merged, names, writer, tensor, quant) for tensor in reader.tensors]
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for done, (tensor, kind) in enumerate(zip(reader.tensors, kinds, strict=True), start=1):
            if kind is None:
                writer.write_tensor_data(tensor.data)
                continue
            add = 1.0 if arch in _NORM_PLUS_ONE and tensor.name.endswith("norm.weight") else 0.0
            data = _encode(merged, names[tensor.name], kind, add)
            if arch in _PERMUTED and tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
                count = heads if tensor.name.endswith("attn_q.weight") else kv_heads
                data = data[llama_row_order(data.shape[0], count)]
            writer.write_tensor_data(data)
            note(done, len(kinds), tensor.name)


def _convert(base: BaseModel, merged: Merged, out_path: Path, quant: str) -> None:
    template = base.template_path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix=".merge-", dir=out_path.parent) as scratch:
        folder, raw = Path(scratch) / base.name, Path(scratch) / "merged.gguf"
        write_merged_folder(merged, base.hf_dir, folder)
        convert(base.root.parent.parent, folder, raw, quant)
        shutil.rmtree(folder)
        write_with_template(raw, out_path, template)


def export(
    adapter_dir: Path, base: BaseModel, out_path: Path, quant: str = "q8_0", note: Note | None = None
) -> dict[str, Any]:
    """Merge `adapter_dir` into `base`, write `out_path` (GGUF) and its manifest; returns the manifest.

    `quant` is f16 or q8_0. Raises `AdapterError`, `DiskSpaceError` or `SetupError` before anything is replaced.
    Safe to repeat: the same inputs give the same bytes.
    """
    if quant not in QUANTS:
        raise SetupError(f"The quantisation {quant} is not known: choose one of {', '.join(QUANTS)}.")
    begun = time.monotonic()
    facts: AdapterFacts = check_adapter(adapter_dir, base, LORA_RANKS[-1])
    weights = Weights(base.hf_dir)
    values = sum(int(np.prod(weights.shape(name))) for name in weights)
    need = values * _BYTES_A_VALUE[quant] + 50_000_000
    if base.kind != "graft":
        need = 2 * need + sum(weights.entry(name).size_bytes for name in weights)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    require_free_disk(out_path.parent, int(need), f"Exporting {out_path.name}")
    merged = Merged(weights, facts)
    adapter = facts.folder.name
    if base.kind == "graft":
        extra = {CHAT_TEMPLATE: base.template_path.read_text(encoding="utf-8"), "general.finetune": adapter}
        _graft(base, merged, out_path, quant, extra, note or (lambda done, total, name: None))
    else:
        _convert(base, merged, out_path, quant)
    manifest = {
        "version": 1,
        "file": out_path.name,
        "sha256": sha256_file(out_path),
        "size_bytes": out_path.stat().st_size,
        "quant": quant,
        "method": base.kind,
        "adapter_id": adapter,
        "adapter_files": facts.manifest["files"],
        "merged_modules": len(facts.modules),
        "scale": facts.scale,
        "base_model": base.name,
        "base_sha256": base.weights_sha256,
        "template_sha256": base.template_sha256,
        "licence": base.licence,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - begun, 2),
    }
    write_json_atomic(out_path.with_suffix(".json"), manifest)
    return manifest


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.gguf_export", description="Merge an adapter into a GGUF.")
    parser.add_argument("--adapter", type=Path, help="adapter folder (default: the one in service)")
    parser.add_argument("--out", type=Path, required=True, help="GGUF file to write")
    parser.add_argument("--quant", default="q8_0", choices=sorted(QUANTS), help="precision of the matrices")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    lake = LakeSettings()
    base = load_base(lake.models_dir, ServingSettings().base_name)
    manifest = export(args.adapter or lake.adapter_link, base, args.out, args.quant)
    print(f"[export] {args.out}: {manifest['size_bytes'] / 1e6:.0f} MB, sha256 {manifest['sha256']}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
