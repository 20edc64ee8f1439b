"""Put a candidate into service: checked, loaded beside the champion, proven by its log-probabilities, then
promoted.

Writes the registry (and through it `models/finetuned_adapter`). Invariant: whatever fails, the champion keeps
serving and the candidate is unloaded; the registry changes last, after the live proof. Without a vLLM address
nothing is proven live, and the report says so.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.steps.gate import require_passed
from lake.errors import AdapterError, BackendError, MulleError
from lake.progress import Progress, timed
from lake.registry import AdapterEntry, Registry
from serving.adapter_checks import check_adapter
from serving.adapters import (
    list_models,
    load_adapter,
    new_adapter_name,
    probe,
    read_reference,
    unload_adapter,
)
from serving.base_models import BaseModel

STEPS = ("gate", "files", "load", "probe", "registry")


def run_promote(
    *,
    models_dir: Path,
    adapter_id: str,
    gate_record: Mapping[str, Any],
    base: BaseModel,
    actor: str,
    progress: Progress,
    vllm_url: str = "",
    vllm_api_key: str = "",
    max_rank: int = 64,
) -> dict[str, Any]:
    """Promote `adapter_id`; returns {adapter_id, served_name, previous, live_proof, timings_s, ...}.

    Raises `GateError` (not passed, or another promotion came first), `AdapterError` (files or live proof) or
    `BackendError` (vLLM not there); `detail["step"]` says at which step. Safe to repeat.
    """
    registry = Registry(models_dir)
    timings: dict[str, float] = {}
    step = "gate"
    served_name: str | None = None
    proof: dict[str, Any] | None = None
    before = registry.champion()
    try:
        with timed(timings, "gate"):
            require_passed(gate_record)
            entry = registry.get(adapter_id)
        progress.advance(1, "gate passed")
        step = "files"
        with timed(timings, "files"):
            registry.verify(adapter_id)
            check_adapter(entry.path, base, max_rank, within=registry.adapters_dir)
            reference = _reference(entry)
        progress.advance(1, "files verified")
        if vllm_url:
            step = "load"
            served_name = new_adapter_name(adapter_id)
            proof = asyncio.run(
                _load_and_prove(vllm_url, vllm_api_key, served_name, entry, base.name, reference, timings, progress)
            )
        step = "registry"
        with timed(timings, "registry"):
            promoted = registry.promote(adapter_id, dict(gate_record), actor)
        progress.advance(1, "promoted")
    except MulleError as error:
        step = str(error.detail.get("step", step))
        error.detail["step"] = step
        error.detail["champion"] = before.adapter_id if before else None
        if served_name is not None:
            error.detail["unloaded"] = asyncio.run(_unload(vllm_url, vllm_api_key, served_name))
        raise
    progress.finish("in service" if served_name else "registry only")
    return {
        "adapter_id": promoted.adapter_id,
        "state": promoted.state,
        "served_name": served_name,
        "path": str(promoted.path),
        "previous": before.adapter_id if before else None,
        "live_proof": proof,
        "live": bool(vllm_url),
        "note": "" if vllm_url else "registry only: no vLLM address was given, so nothing was loaded or proven live",
        "timings_s": {name: round(seconds, 4) for name, seconds in timings.items()},
    }


def _reference(entry: AdapterEntry) -> dict[str, Any]:
    """The adapter's reference; one that can't tell it from the base proves nothing."""
    reference = read_reference(entry.path)
    if reference.get("separable") is not True:
        raise AdapterError(
            f"Adapter {entry.adapter_id} can't be told from its base by its reference (distance "
            f"{reference.get('distance')}, noise {reference.get('noise')}): train longer before promoting it."
        )
    return reference


async def _load_and_prove(
    url: str,
    api_key: str,
    name: str,
    entry: AdapterEntry,
    base_name: str,
    reference: dict[str, Any],
    timings: dict[str, float],
    progress: Progress,
) -> dict[str, Any]:
    """Load under `name` and compare with the reference. Raises with `detail["step"]` set."""
    step = "load"
    try:
        with timed(timings, "load"):
            served_base = await _served_base(url, api_key, base_name)
            await load_adapter(url, api_key, name, entry.path.resolve())
        progress.advance(1, f"loaded as {name}")
        step = "probe"
        begun = time.perf_counter()
        report = await probe(url, api_key, name, served_base, reference)
        timings["probe"] = time.perf_counter() - begun
        report.require()
        progress.advance(1, "proven live")
    except MulleError as error:
        error.detail["step"] = step
        raise
    return asdict(report)


async def _served_base(url: str, api_key: str, base_name: str) -> str:
    """The served model without a parent: the base. Prefers the name that the adapter was trained for."""
    bases = [model.name for model in await list_models(url, api_key) if model.parent is None]
    if not bases:
        raise BackendError(f"The server at {url} lists no base model: is it vLLM?")
    return base_name if base_name in bases else bases[0]


async def _unload(url: str, api_key: str, name: str) -> bool:
    """Take the failed candidate out; False where vLLM did not have it or is not there any more."""
    try:
        return await unload_adapter(url, api_key, name)
    except BackendError:
        return False
