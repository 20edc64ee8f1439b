"""The adapter folder: weights, config, model card, environment and the manifest that hashes all of them.

Writes into a folder that nobody reads yet (the caller renames it when it is whole). Invariant: safetensors
only, no absolute path in any file, and `manifest.json` names every other file with its sha256.
"""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.steps.train_model import BaseInfo
from lake.files import fsync_dir, read_json, sha256_file, write_json_atomic, write_text_atomic

MANIFEST_VERSION = 1
_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "safetensors",
    "tokenizers",
)


def save_weights(model: Any, adapter_dir: Path, base_name: str) -> None:
    """peft's own safetensors file and config; the config names the base, never a path."""
    model.save_pretrained(adapter_dir, safe_serialization=True, save_embedding_layers=False)
    path = adapter_dir / "adapter_config.json"
    config = read_json(path)
    config["base_model_name_or_path"] = base_name
    config["revision"] = None
    config["target_modules"] = sorted(config["target_modules"])  # a set: its order is not stable
    write_json_atomic(path, config)
    for leftover in adapter_dir.iterdir():
        if leftover.name not in {"adapter_model.safetensors", "adapter_config.json"}:
            leftover.unlink()
    (adapter_dir / "adapter_model.safetensors").chmod(0o644)  # peft writes 0600; the server may be another user


def environment(threads: int) -> dict[str, Any]:
    """Versions and machine, so that a run can be repeated."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _read_lines(Path("/proc/cpuinfo")) if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    import torch

    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpu": cpu,
        "threads": threads,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def _read_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def peak_memory_bytes() -> int:
    """Largest resident set of this process so far (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_card(adapter_dir: Path, base: BaseInfo, dataset: dict[str, Any], metrics: dict[str, Any]) -> None:
    """README.md for people, with the metadata block that Hugging Face reads."""
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(
        language=["ko", "en"], license="other", license_name=base.licence, library_name="peft",
        base_model=base.name, pipeline_tag="text-generation", tags=["lora", "tool-search"],
    )  # fmt: skip
    holdout = metrics["eval_history"]
    loss = (
        f"{holdout[0]['loss']:.4f} (base) -> {metrics['best_loss']:.4f} (step {metrics['best_step']})"
        if holdout
        else "none"
    )
    lines = [
        f"---\n{data.to_yaml()}\n---",
        f"# LoRA adapter on {base.name}",
        "",
        "Answers questions about software tools from a list of retrieved tools, in Korean and in English.",
        "",
        "## Intended use",
        "Recommending one of the tools that a search returned, or saying that none suits. It has no "
        "knowledge of "
        "its own about tools and is not meant for anything else.",
        "",
        "## Base",
        f"{base.name}, licence: {base.licence}, sha256 of the weights `{base.sha256}`, "
        f"chat template sha256 `{base.template_sha256}`.",
        "",
        "## Data",
        f"Dataset `{dataset['version']}`, sha256 of its manifest `{dataset['manifest_sha256']}`; "
        f"{metrics['rows_train']} rows for training, {metrics['rows_holdout']} held out (they pick the "
        "checkpoint).",
        "",
        "## Training",
        f"{metrics['hparams']['method']}, {metrics['quantisation']}, {metrics['dtype']}, {metrics['steps']} "
        "steps in "
        f"{metrics['train_seconds']:.0f} s. Hold-out loss: {loss}. "
        "Hyperparameters: training_config.json. Loss curve: metrics.json.",
        "",
        "## Limits",
        "The verdict of the evaluation is kept in the registry, not here. Do not serve it without a passed gate.",
        "",
    ]
    write_text_atomic(adapter_dir / "README.md", ModelCard("\n".join(lines)).content)


def write_manifest(
    adapter_dir: Path,
    base: BaseInfo,
    dataset: dict[str, Any],
    hparams: dict[str, Any],
    reference: dict[str, Any],
) -> dict[str, Any]:
    """Last file of the folder: sha256 and size of every other one, and what the adapter belongs to."""
    files = {
        file.name: {"sha256": sha256_file(file), "size_bytes": file.stat().st_size}
        for file in sorted(adapter_dir.iterdir())
    }
    manifest = {
        "version": MANIFEST_VERSION,
        "kind": "lora",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "base_model": base.name,
        "base_sha256": base.sha256,
        "template_sha256": base.template_sha256,
        "dataset": dataset,
        "rank": hparams["rank"],
        "alpha": hparams["alpha"],
        "hparams": hparams,
        "reference": reference,
        "files": files,
    }
    write_json_atomic(adapter_dir / "manifest.json", manifest)
    fsync_dir(adapter_dir)
    return manifest
