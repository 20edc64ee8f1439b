"""Proof of an adapter: what transformers says of fixed probes, on the unquantised base with and without it.

Writes `reference.json` beside the adapter; a server that claims to serve the adapter has to agree with it.

Tolerance: for each probe the mean absolute difference (nats a token) over its completion tokens is taken,
then the mean over the probes. `distance` is that figure between adapter and base (a no-op adapter sits
exactly at `distance`); `noise` is the same figure between this computation in the reference dtype and in
bfloat16, the coarsest that servers use, and at least 0.002. `tolerance = sqrt(noise * distance)`: as many
times above the noise as below the base. `separable` says whether the two are a factor of 4 apart; without
that no probe can prove anything.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from flows.steps.train_rows import TokenRow
from lake.files import write_json_atomic

REFERENCE_FILE = "reference.json"
REFERENCE_VERSION = 1
MIN_NOISE = 0.002  # nats a token; float32 kernels of two engines were seen to differ by less
MIN_SEPARATION = 4.0


def pick_probes(rows: list[TokenRow], count: int) -> list[TokenRow]:
    """Evenly spread over the rows sorted by length, so that short and long prompts are both there."""
    ordered = sorted(rows, key=lambda row: (len(row.ids), row.ids))
    if len(ordered) <= count:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / max(count - 1, 1))] for i in range(count)]


def completion_logprobs(model: Any, row: TokenRow) -> list[float]:
    """Natural log-probability of each completion token given all before it; length `len(ids) - prompt_len`."""
    device = next(model.parameters()).device
    ids = torch.tensor([row.ids], device=device)
    count = len(row.ids) - row.prompt_len
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=count + 1).logits[0, -count - 1 : -1]
        log_p = torch.log_softmax(logits.float(), dim=-1)
    picked = log_p.gather(-1, ids[0, row.prompt_len :].unsqueeze(-1)).squeeze(-1)
    return [round(float(value), 6) for value in picked]


def mean_distance(left: list[list[float]], right: list[list[float]]) -> float:
    """Mean over probes of the mean absolute difference; nats a token."""
    each = [
        sum(abs(a - b) for a, b in zip(one, two, strict=True)) / len(one) for one, two in zip(left, right, strict=True)
    ]
    return sum(each) / len(each)


def tolerance(noise: float, distance: float) -> float:
    """Geometric mean of the two: equally far, as a factor, from rounding and from the base."""
    return math.sqrt(max(noise, MIN_NOISE) * max(distance, MIN_NOISE))


def write_reference(adapter_dir: Path, hf_dir: Path, base_name: str, probes: list[TokenRow]) -> dict[str, Any]:
    """Compute and write the reference; returns its summary (without the probes). Raises on an empty `probes`."""
    if not probes:
        raise ValueError("A reference needs at least one probe.")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32  # a 10.7B base does not fit a GPU in float32
    base: Any = AutoModelForCausalLM.from_pretrained(
        hf_dir, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    model: Any = PeftModel.from_pretrained(base.to("cuda" if on_gpu else "cpu"), str(adapter_dir))
    model.eval()
    tuned = [completion_logprobs(model, row) for row in probes]
    with model.disable_adapter():
        plain = [completion_logprobs(model, row) for row in probes]
    model.to(torch.float32 if on_gpu and _fits_float32(model) else torch.bfloat16)
    other = [completion_logprobs(model, row) for row in probes[: max(2, len(probes) // 2)]]
    noise = max(mean_distance(tuned[: len(other)], other), MIN_NOISE)
    distance = mean_distance(tuned, plain)
    summary = {
        "version": REFERENCE_VERSION,
        "base_model": base_name,
        "dtype": str(dtype).removeprefix("torch."),
        "noise": round(noise, 6),
        "distance": round(distance, 6),
        "tolerance": round(tolerance(noise, distance), 6),
        "separable": distance >= MIN_SEPARATION * noise,
        "rule": "mean absolute difference in nats a token <= tolerance; tolerance = sqrt(noise * distance)",
    }
    listed = [
        {
            "prompt_token_ids": row.ids[: row.prompt_len],
            "completion_token_ids": row.ids[row.prompt_len :],
            "logprobs_tuned": tuned[i],
            "logprobs_base": plain[i],
        }
        for i, row in enumerate(probes)
    ]
    write_json_atomic(adapter_dir / REFERENCE_FILE, {**summary, "probes": listed})
    return {**summary, "probes": len(listed)}


def _fits_float32(model: Any) -> bool:
    need = sum(value.numel() for value in model.parameters()) * 4
    return need < 0.8 * torch.cuda.get_device_properties(0).total_memory
