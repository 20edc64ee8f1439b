"""The floating-point checkpoint of a base model: dequantised from a GGUF, or taken from a user's own folder.

Reads a GGUF or a Hugging Face folder, writes `models/base/<name>/hf/`. Only safetensors, a tokenizer and JSON
get in: no pickle, no code, nothing that asks for trust_remote_code. torch and transformers are imported only
where a GGUF is dequantised.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, cast

from lake.errors import SetupError
from lake.files import write_text_atomic

_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
_KEPT = {
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
}
GEMMA_TURN = "<start_of_turn>"


def dequantise(gguf_path: Path, out_dir: Path, template: str) -> None:
    """Write a bfloat16 checkpoint with tokenizer and `template` from a GGUF (about a minute for 270M).

    transformers marks what it loads from GGUF as quantised and refuses to save it, hence the two deletions.
    The tokenizer it derives adds no BOS by itself; the template does, once.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, file = str(gguf_path.parent), gguf_path.name
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.to(torch.bfloat16).save_pretrained(out_dir)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    tokenizer.model_max_length = int(model.config.max_position_embeddings)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(out_dir)
    write_text_atomic(out_dir / "chat_template.jinja", template)
    for path in out_dir.iterdir():
        path.chmod(0o644)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SetupError(f"{path} is missing: a base model needs it.") from error
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} can't be read as JSON ({error}): fetch the model again.") from error
    if not isinstance(value, dict):
        raise SetupError(f"{path} must hold a JSON object: fetch the model again.")
    return cast(dict[str, Any], value)


def own_template(folder: Path) -> str | None:
    """The chat template that a Hugging Face folder ships, or None."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = _read_object(folder / "tokenizer_config.json").get("chat_template")
    return template if isinstance(template, str) and template else None


def check_folder(folder: Path) -> list[str]:
    """Names of the files of a user's checkpoint that may be taken. Raises `SetupError` saying what to change."""
    if not folder.is_dir():
        raise SetupError(f"{folder} is not a folder: give the path of a Hugging Face checkpoint folder.")
    for name in ("config.json", "tokenizer_config.json"):
        if "auto_map" in _read_object(folder / name):
            raise SetupError(
                f"{folder / name} asks to run code of its own (auto_map), which is never done here: "
                "choose a model that transformers supports by itself."
            )
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights = [name for name in names if name.endswith(".safetensors") and not name.startswith("adapter_")]
    if not weights:
        other = [name for name in names if name.endswith(_WEIGHTS)]
        found = f" (only {', '.join(other)})" if other else ""
        raise SetupError(f"{folder} holds no .safetensors weights{found}: save the model again with save_pretrained().")
    if "tokenizer.json" not in names:
        raise SetupError(
            f"{folder} holds no tokenizer.json: load its tokenizer with transformers and save it there once."
        )
    if len(weights) > 1:
        index = _read_object(folder / "model.safetensors.index.json").get("weight_map", {})
        missing = sorted(set(index.values()) - set(weights))
        if missing:
            raise SetupError(f"{folder} lacks {', '.join(missing)}: fetch the missing parts.")
        weights = sorted(set(index.values()))
    return weights + [name for name in names if name in _KEPT]


def take_folder(folder: Path, out_dir: Path, default_template: str) -> list[str]:
    """Link (or copy) a user's checkpoint to `out_dir`; returns the names of files that were left out.

    The folder's own chat template is kept. Without one, `default_template` is used if the model knows Gemma's
    turn markers; otherwise there is no template to guess and a `SetupError` says so.
    """
    names = check_folder(folder)
    template = own_template(folder)
    if template is None:
        if GEMMA_TURN not in (folder / "tokenizer.json").read_text(encoding="utf-8"):
            raise SetupError(
                f"{folder} has no chat template: put the one it was trained with there as chat_template.jinja."
            )
        template = default_template
    out_dir.mkdir(parents=True, exist_ok=True)
    for name in names:
        source, target = (folder / name).resolve(), out_dir / name
        if name.endswith(".safetensors"):
            try:
                os.link(source, target)
                continue
            except OSError:  # another file system
                pass
        shutil.copyfile(source, target)
    write_text_atomic(out_dir / "chat_template.jinja", template)
    return sorted(path.name for path in folder.iterdir() if path.name not in names)
