"""Loads the base for training: compute dtype by measurement, 4 bits by bitsandbytes, loss on completions
only.

Reads a Hugging Face checkpoint folder. Invariant: nothing is fetched and no code of a checkpoint is run.
"""

from __future__ import annotations

import functools
import time
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch

from flows.steps.train_config import TrainConfig
from lake.errors import ModelMissingError
from lake.files import read_json, sha256_bytes, sha256_file

_PROBE_SHAPE = (1024, 1024, 1024)  # large enough for the kernels of real layers, < 0.2 s a dtype
_PROBE_S = 0.15


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """What identifies a base checkpoint; the hash is of its weights."""

    name: str
    folder: Path
    sha256: str
    licence: str
    template: str
    template_sha256: str


def base_info(hf_dir: Path) -> BaseInfo:
    """Identity of the checkpoint in `hf_dir`; uses `../manifest.json` where the base was prepared by Mulle.

    Raises `ModelMissingError` where a checkpoint, its tokenizer or its chat template is missing.
    """
    weights = sorted(hf_dir.glob("*.safetensors"))
    if not weights or not (hf_dir / "config.json").exists():
        raise ModelMissingError(
            f"{hf_dir} holds no safetensors checkpoint: run `make models`, or give --base a checkpoint folder."
        )
    if not (hf_dir / "tokenizer.json").exists():
        raise ModelMissingError(f"{hf_dir} has no tokenizer.json: add the base's tokenizer to the folder.")
    template_file = hf_dir / "chat_template.jinja"
    if not template_file.exists():
        raise ModelMissingError(f"{hf_dir} has no chat_template.jinja: copy configs/chat_template.jinja into it.")
    template = template_file.read_bytes()
    manifest: dict[str, Any] = {}
    path = hf_dir.parent / "manifest.json"
    if path.exists():
        try:
            manifest = read_json(path)
        except orjson.JSONDecodeError as error:
            raise ModelMissingError(f"{path} is not JSON ({error}): prepare the base again.") from error
    digest = manifest.get("weights_sha256")
    if not isinstance(digest, str):
        hashes = [sha256_file(file) for file in weights]
        digest = hashes[0] if len(hashes) == 1 else sha256_bytes("\n".join(hashes).encode())
    return BaseInfo(
        name=str(manifest.get("name") or (hf_dir.parent.name if hf_dir.name == "hf" else hf_dir.name)),
        folder=hf_dir,
        sha256=digest,
        licence=str(manifest.get("licence") or "see the base model"),
        template=template.decode("utf-8"),
        template_sha256=sha256_bytes(template),
    )


def measure_dtypes() -> dict[str, float]:
    """GFLOP/s of one matrix product in float32 and in bfloat16, with the threads now set.

    Without native bf16 a CPU was measured 35 times slower in it; with AVX512-bf16, 7 times faster.
    """
    m, k, n = _PROBE_SHAPE
    found: dict[str, float] = {}
    for name in ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        left, right = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
        start, rounds = time.perf_counter(), 0
        torch.mm(left, right)  # the first call packs and compiles
        if time.perf_counter() - start < _PROBE_S * 10:
            start = time.perf_counter()
            while rounds == 0 or time.perf_counter() - start < _PROBE_S:
                torch.mm(left, right)
                rounds += 1
        rounds = max(rounds, 1)
        found[name] = round(2 * m * k * n * rounds / (time.perf_counter() - start) / 1e9, 1)
    return found


def choose_dtype(config: TrainConfig) -> tuple[str, dict[str, float]]:
    """Name of the compute dtype, and the timings it was chosen by (empty where it was given, or on a GPU)."""
    if config.compute_dtype != "auto":
        return config.compute_dtype, {}
    if torch.cuda.is_available():
        return ("bfloat16" if torch.cuda.is_bf16_supported() else "float16"), {}
    speeds = measure_dtypes()
    # bf16 has other costs (casts, no fused 4-bit kernels): it must be clearly faster to be taken
    return ("bfloat16" if speeds["bfloat16"] > 1.5 * speeds["float32"] else "float32"), speeds


def load_base(config: TrainConfig, hf_dir: Path, dtype_name: str) -> Any:
    """The base in 4 bits (qlora) or in the compute dtype (lora), on the GPU where there is one."""
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, dtype_name)
    options: dict[str, Any] = {}
    if config.method == "qlora":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=config.quant_type,
            bnb_4bit_use_double_quant=config.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )
    if torch.cuda.is_available():
        options["device_map"] = {"": 0}
    model = AutoModelForCausalLM.from_pretrained(
        hf_dir, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True, **options
    )
    keep_weights_unpacked(model)
    return model


def keep_weights_unpacked(model: Any) -> int:
    """Stop bitsandbytes from repacking 4-bit weights in evaluations on CPUs with AVX512-bf16; how many layers.

    It packs them in the first forward pass of an evaluation (0.50.2, `Linear4bit.forward`), and keeps them so:
    later training steps go through an inference kernel that autograd knows nothing of, and no gradient passes a
    4-bit layer any more, without an error. Measured after an evaluation: 14 steps, loss 2.45 -> 2.24; without:
    2.45 -> 0.98.
    """
    from bitsandbytes.nn.modules import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def adapter_config(config: TrainConfig, base_name: str) -> Any:
    """peft's config: what vLLM can load (no DoRA, no extra modules, no bias)."""
    from peft import LoraConfig

    modules = config.target_modules
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name,
    )


def score_completions_only(model: Any) -> bool:
    """Let trl's fused head project completion positions only, on a CPU too. True where it was put in place.

    trl does so only where Triton runs; elsewhere it scores every position. With a vocabulary of 262,144 and
    short completions that is most of the work: five sixths of the positions are the prompt's.
    """
    text_config = model.config.get_text_config()
    scaled = (
        "logit_scale",
        "output_multiplier",
        "lm_head_multiplier",
        "logits_scaling",
        "router_aux_loss_coef",
    )
    if model.device.type != "cpu" or any(getattr(text_config, name, None) is not None for name in scaled):
        return False
    from trl.trainer.utils import FusedCausalLMOutput

    softcap = getattr(text_config, "final_logit_softcapping", None)
    fused = model.forward

    @functools.wraps(type(model).forward)  # transformers reads the signature
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any) -> Any:
        if not fused_lm_head or labels is None or args:
            return fused(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        kwargs.pop("num_items_in_batch", None)
        kwargs["use_cache"] = False
        hidden = self.base_model(**kwargs).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        mask = targets != -100
        logits = self.get_output_embeddings()(hidden[mask]).float()
        if softcap is not None:
            logits = torch.tanh(logits / softcap) * softcap
        log_p = torch.log_softmax(logits, dim=-1)
        picked = log_p.gather(-1, targets[mask].unsqueeze(-1)).squeeze(-1)
        with torch.no_grad():
            entropy = -(log_p.exp() * log_p).sum(-1)
            top1 = (log_p.argmax(-1) == targets[mask]).to(log_p.dtype)
        zeros = log_p.new_zeros(mask.shape)
        log_probs = zeros.masked_scatter(mask, picked)
        return FusedCausalLMOutput(
            loss=-log_probs.sum() / mask.sum().clamp(min=1),
            log_probs=log_probs,
            entropy=zeros.masked_scatter(mask, entropy),
            is_top1=zeros.masked_scatter(mask, top1),
            label_mask=mask,
        )

    model.forward = types.MethodType(forward, model)
    return True
