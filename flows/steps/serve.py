"""The servers that a step needs, as context managers: used where they run, started where they do not.

vLLM holds base and adapter in one server; LM Studio loads no LoRA, so its stand-in is two llama.cpp servers, one
with the base's GGUF and one with the merged one. What a step started for itself alone, it also stops; vLLM stays,
since the next step and the gateway use it (`make down` stops it).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flows.steps.parts import open_base
from flows.steps.stack import Ports, Stack
from flows.steps.stage import StageContext
from lake.errors import ModelMissingError, SetupError
from lake.registry import AdapterEntry
from serving.adapter_checks import check_adapter
from serving.adapters import load_adapter, new_adapter_name, unload_adapter
from serving.backends import Backend
from serving.processes import port_is_free


@dataclass(frozen=True, slots=True)
class Arms:
    """The two models to compare, and how many questions their servers take at once."""

    backends: dict[str, Backend]  # base, tuned
    concurrency: int


def running_stack(stage: StageContext) -> Stack:
    """The stack of this run's settings; gateway and Prefect are not touched by a step."""
    serving = stage.serving
    ports = Ports(0, 0, serving.llamacpp_port, serving.llamacpp_tuned_port, serving.vllm_port)
    return Stack(stage.lake, serving, ports, stage.environ, stage.log)


@contextmanager
def tuned_arms(stage: StageContext, backend: str, entry: AdapterEntry) -> Iterator[Arms]:
    """`backend` is vllm or lmstudio. Raises `SetupError` for any other, `AdapterError` for a bad adapter."""
    if backend == "vllm":
        with _vllm(stage, entry) as arms:
            yield arms
    elif backend == "lmstudio":
        with _lmstudio(stage, entry) as arms:
            yield arms
    else:
        raise SetupError(f"There is no backend {backend!r} to evaluate on: choose vllm or lmstudio.")


@contextmanager
def _vllm(stage: StageContext, entry: AdapterEntry) -> Iterator[Arms]:
    base = open_base(stage)
    check_adapter(entry.path, base, stage.serving.vllm_max_lora_rank, within=stage.lake.adapters_dir)
    url = running_stack(stage).ensure_vllm()
    key = stage.serving.vllm_api_key.get_secret_value()
    name = new_adapter_name(entry.adapter_id)
    asyncio.run(load_adapter(url, key, name, entry.path.resolve()))
    try:
        arms = {"base": Backend("vllm", url, base.name, key), "tuned": Backend("vllm", url, name, key)}
        yield Arms(arms, stage.serving.vllm_max_num_seqs)
    finally:
        asyncio.run(unload_adapter(url, key, name))


@contextmanager
def _lmstudio(stage: StageContext, entry: AdapterEntry) -> Iterator[Arms]:
    base = open_base(stage)
    stack = running_stack(stage)
    started: list[str] = []
    try:
        if port_is_free(stack.ports.llamacpp):
            stack.start_llamacpp("llamacpp-base", base.gguf_path, base.name, stack.ports.llamacpp)
            started.append("llamacpp-base")
        if port_is_free(stack.ports.llamacpp_tuned):
            gguf = stack.newest_gguf(entry.adapter_id)
            if gguf is None:
                raise ModelMissingError(
                    f"Adapter {entry.adapter_id} has no GGUF yet: "
                    f"run `python -m flows.export --adapter {entry.adapter_id}`."
                )
            stack.start_llamacpp("llamacpp-tuned", gguf, entry.adapter_id, stack.ports.llamacpp_tuned)
            started.append("llamacpp-tuned")
        arms = {
            "base": Backend("lmstudio", stack.llamacpp_url, base.name),
            "tuned": Backend("lmstudio", stack.llamacpp_tuned_url, entry.adapter_id),
        }
        yield Arms(arms, stage.serving.llamacpp_slots)
    finally:
        for name in reversed(started):
            stack.stop(name)
