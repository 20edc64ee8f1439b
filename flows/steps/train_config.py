"""The hyperparameters of one training run: a frozen dataclass, loaded from `configs/*.toml`, saved beside the
adapter.

Reads a TOML file. Invariant: a key that is unknown, of the wrong type or out of range is refused with what to
do; nothing is guessed, and every key has an effect on the run.
"""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from lake.errors import InputError

METHODS = ("qlora", "lora")
SCHEDULERS = ("linear", "cosine", "constant")
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANT_TYPES = ("nf4", "fp4")
MAX_RANK = 512  # the largest --max-lora-rank that vLLM accepts


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One run. Defaults are those of the 2-core demo; `configs/` holds the others."""

    method: str = "qlora"  # qlora: base in 4 bits; lora: base in the compute dtype
    rank: int = 16  # inner dimension of the adapter; measured enough for the house style; vLLM needs <= 512
    alpha: int = 32  # scale = alpha / rank; 2 x rank is peft's customary choice
    dropout: float = 0.0  # share of adapter inputs zeroed; 0.05 for long runs (QLoRA paper, table 9)
    target_modules: str | tuple[str, ...] = "all-linear"  # "all-linear" (QLoRA paper) or names of modules
    learning_rate: float = 5e-4  # peak, AdamW; measured on the 270M base, larger bases want 2e-5 to 2e-4
    weight_decay: float = 0.0  # AdamW, per step; adapters are small, so none
    max_grad_norm: float = 1.0  # gradients are scaled down to this L2 norm
    epochs: float = 3.0  # passes over the training rows
    max_steps: int = 0  # optimiser steps; 0: only `epochs` counts
    max_seconds: float = 0.0  # wall-clock seconds of training, end evaluation included; 0: no limit
    batch_size: int = 4  # rows a forward pass
    grad_accumulation: int = 1  # forward passes an optimiser step
    warmup_share: float = 0.05  # share of the run in which the learning rate climbs
    scheduler: str = "cosine"  # shape of the way down, over steps or seconds, whichever ends first
    seed: int = 17  # of weights, order and dropout
    max_length: int = 768  # tokens a row may have; a longer row is refused and counted, never cut
    quant_type: str = "nf4"  # 4-bit data type (QLoRA paper); only with method qlora
    double_quant: bool = True  # quantise the quantisation constants too: saves 0.4 bit a weight
    compute_dtype: str = "auto"  # auto: the faster of float32 and bfloat16, timed on this machine
    eval_steps: int = 20  # optimiser steps between hold-out losses; 0: only at start and end
    log_steps: int = 1  # optimiser steps between two lines of the loss curve
    group_by_length: bool = True  # rows of like length share a batch: less padding
    gradient_checkpointing: bool = False  # recompute activations: less memory, a third more time
    threads: int = 0  # CPU threads; 0: the physical cores
    probes: int = 8  # hold-out rows whose log-probabilities are kept as proof of the adapter

    def __post_init__(self) -> None:
        checks = (
            (self.method in METHODS, "method", f"one of {METHODS}"),
            (self.scheduler in SCHEDULERS, "scheduler", f"one of {SCHEDULERS}"),
            (self.compute_dtype in DTYPES, "compute_dtype", f"one of {DTYPES}"),
            (self.quant_type in QUANT_TYPES, "quant_type", f"one of {QUANT_TYPES}"),
            (1 <= self.rank <= MAX_RANK, "rank", f"1..{MAX_RANK}"),
            (self.alpha >= 1, "alpha", ">= 1"),
            (0 <= self.dropout < 1, "dropout", "0 <= x < 1"),
            (bool(self.target_modules), "target_modules", '"all-linear" or a list of module names'),
            (0 < self.learning_rate < 1, "learning_rate", "0 < x < 1"),
            (self.weight_decay >= 0, "weight_decay", ">= 0"),
            (self.max_grad_norm > 0, "max_grad_norm", "> 0"),
            (self.epochs > 0, "epochs", "> 0"),
            (self.max_steps >= 0, "max_steps", ">= 0"),
            (self.max_seconds >= 0, "max_seconds", ">= 0"),
            (self.batch_size >= 1, "batch_size", ">= 1"),
            (self.grad_accumulation >= 1, "grad_accumulation", ">= 1"),
            (0 <= self.warmup_share < 1, "warmup_share", "0 <= x < 1"),
            (self.max_length >= 16, "max_length", ">= 16"),
            (self.eval_steps >= 0, "eval_steps", ">= 0"),
            (self.log_steps >= 1, "log_steps", ">= 1"),
            (self.threads >= 0, "threads", ">= 0"),
            (self.probes >= 1, "probes", ">= 1"),
        )
        for holds, name, want in checks:
            if not holds:
                raise InputError(f"Training config: {name} = {getattr(self, name)!r} is not allowed; want {want}.")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` reads it back."""
        return asdict(self)


def from_dict(values: dict[str, Any], source: str = "values") -> TrainConfig:
    """A checked config. Raises `InputError` naming the key, what is wrong and what is allowed."""
    hints = get_type_hints(TrainConfig)
    known = [field.name for field in fields(TrainConfig)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise InputError(f"{source}: unknown key {', '.join(unknown)}. Remove it; known keys: {', '.join(known)}.")
    return TrainConfig(**{name: _coerce(source, name, value, hints[name]) for name, value in values.items()})


def load_config(path: Path) -> TrainConfig:
    """The config in a TOML file. Raises `InputError` where it is missing, broken or wrong."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Training config {path} can't be read ({error.strerror}): give --config a file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"Training config {path} is not valid TOML: {error}.") from error
    return from_dict(values, str(path))


def _coerce(source: str, name: str, value: Any, hint: Any) -> Any:
    """`value` as the field's type; ints may stand for floats, lists for tuples, nothing else is converted."""
    allowed = get_args(hint) or (hint,)
    if isinstance(value, list) and name == "target_modules":
        if value and all(isinstance(item, str) and item for item in value):
            return tuple(value)
    elif isinstance(value, bool):
        if bool in allowed:
            return value
    elif isinstance(value, int) and float in allowed:
        return float(value)
    elif any(kind in (str, int, float) and isinstance(value, kind) for kind in allowed):
        return value
    want = "text or a list of text" if name == "target_modules" else getattr(hint, "__name__", str(hint))
    raise InputError(f"{source}: {name} = {value!r} has the wrong type; write a {want}.")
