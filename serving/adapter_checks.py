"""Is this folder a LoRA adapter that may be loaded on this base model? Answered before any server sees it.

Reads the adapter folder and the base checkpoint's headers; runs nothing from either. On top of the file checks of
`lake.adapter_files` (allow-list, sha256, no links) it parses every tensor: known modules of the base, shapes that
fit, one rank, finite values, and an effect at all.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lake.adapter_files import CONFIG, WEIGHTS, check_files
from lake.errors import AdapterError, InputError
from lake.files import read_json
from serving.base_models import BaseModel
from serving.weights import Weights

_TENSOR = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<side>[AB])\.weight")
# Variants of LoRA whose arithmetic is not W + scale * B @ A, or which vLLM and the export don't know.
_REFUSED = (
    "use_dora", "modules_to_save", "auto_map", "auto_mapping", "fan_in_fan_out", "rank_pattern", "alpha_pattern",
    "layer_replication", "lora_bias", "trainable_token_indices", "target_parameters", "alora_invocation_tokens",
    "use_qalora", "use_bdlora", "arrow_config", "kasa_config", "velora_config", "monteclora_config",
    "megatron_config",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """A checked adapter. `modules` are names in the base, for example `model.layers.0.self_attn.q_proj`."""

    folder: Path  # resolved
    base_name: str
    rank: int
    scale: float  # what B @ A is multiplied by
    modules: tuple[str, ...]
    parameters: int
    manifest: dict[str, Any]


def tensor_name(module: str, side: str) -> str:
    """peft's name of a module's A or B matrix."""
    return f"base_model.model.{module}.lora_{side}.weight"


def check_config(config: dict[str, Any], max_rank: int) -> tuple[int, float]:
    """(rank, scale) of an adapter_config.json. Raises `AdapterError` naming every reason to refuse it."""
    problems = [f"{key} is set" for key in _REFUSED if config.get(key)]
    if config.get("peft_type") != "LORA":
        problems.append(f"peft_type is {config.get('peft_type')}, not LORA")
    if config.get("bias", "none") != "none":
        problems.append("it trains biases")
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        problems.append(f"init_lora_weights={config['init_lora_weights']} changes the base's own weights")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        problems.append(f"its rank {rank} is not a positive number")
    elif rank > max_rank:
        problems.append(f"its rank {rank} is above {max_rank} (raise MULLE_VLLM_MAX_LORA_RANK)")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha <= 0:
        problems.append(f"its lora_alpha {alpha} is not a positive number")
    if problems:
        raise AdapterError(
            f"This adapter can't be served: {'; '.join(problems)}. Train a plain LoRA adapter.", problems=problems
        )
    assert isinstance(rank, int) and isinstance(alpha, int | float)
    return rank, float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_base(manifest: dict[str, Any], base: BaseModel, folder: Path) -> None:
    for key, want, what in (
        ("base_model", base.name, "base model"),
        ("base_sha256", base.weights_sha256, "weights of the base model"),
        ("template_sha256", base.template_sha256, "chat template"),
    ):
        if manifest.get(key) != want:
            raise AdapterError(
                f"{folder.name} was trained for another {what} ({manifest.get(key)}) than is served here ({want}): "
                "train it again on this base model."
            )


def _check_tensors(weights: Weights, base: Weights, rank: int, folder: Path) -> tuple[tuple[str, ...], int]:
    sides: dict[str, set[str]] = {}
    parameters = 0
    effect = False
    for name in weights:
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise AdapterError(f"{folder.name}: {name} is not a LoRA matrix: train a plain LoRA adapter.")
        module, side = match["module"], match["side"]
        if f"{module}.weight" not in base or len(base.shape(f"{module}.weight")) != 2:
            raise AdapterError(
                f"{folder.name}: the base model has no linear layer {module}: wrong base or model class."
            )
        rows, columns = base.shape(f"{module}.weight")
        want = (rank, columns) if side == "A" else (rows, rank)
        if weights.shape(name) != want:
            raise AdapterError(f"{folder.name}: {name} has shape {weights.shape(name)}, the base needs {want}.")
        values = weights.read(name)
        if not np.isfinite(values).all():
            raise AdapterError(f"{folder.name}: {name} holds NaN or infinite values: its training failed, train again.")
        effect = effect or (side == "B" and bool(values.any()))
        sides.setdefault(module, set()).add(side)
        parameters += values.size
    lonely = sorted(module for module, have in sides.items() if have != {"A", "B"})
    if lonely:
        raise AdapterError(f"{folder.name}: {lonely[0]} has only one of its two matrices: copy or train it again.")
    if not effect:
        raise AdapterError(f"{folder.name} changes nothing (every B matrix is zero): it was never trained.")
    return tuple(sorted(sides)), parameters


def check_adapter(folder: Path, base: BaseModel, max_rank: int, within: Path | None = None) -> AdapterFacts:
    """Everything that can be known of an adapter without a model. Raises `AdapterError` saying what to do.

    `folder` may be a link (models/finetuned_adapter); its target must lie below `within`, where given, and hold
    plain files only. Reads all tensors: well below a second for a 270M base.
    """
    real = folder.resolve()
    if within is not None and not real.is_relative_to(within.resolve()):
        raise AdapterError(f"{folder} lies outside {within}: add it to the registry first.")
    manifest = check_files(real)
    _check_base(manifest, base, real)
    try:
        rank, scale = check_config(dict(read_json(real / CONFIG)), max_rank)
        weights = Weights(real / WEIGHTS)
    except AdapterError:
        raise
    except (InputError, OSError, ValueError) as error:
        raise AdapterError(str(error)) from error
    modules, parameters = _check_tensors(weights, Weights(base.hf_dir), rank, real)
    return AdapterFacts(real, base.name, rank, scale, modules, parameters, manifest)
