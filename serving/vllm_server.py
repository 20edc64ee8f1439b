"""Starts vLLM's OpenAI-compatible server with LoRA hot loading, on loopback, from its own environment.

    python -m serving.vllm_server                      settings MULLE_VLLM_*, base model MULLE_BASE_NAME
    python -m serving.vllm_server --base DIR --port P

This process becomes vLLM (exec), so a signal or a pid means the server itself. Only arguments and environment
are made here; vLLM is never imported. The same entry point serves the CPU build and, on a GPU host, the
official package. The API key goes through VLLM_API_KEY, never through the argument vector.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lake.errors import ModelMissingError, SetupError
from lake.settings import LakeSettings
from serving.base_models import BaseModel, load_base
from serving.cli import exit_code
from serving.processes import require_free_port
from serving.settings import ServingSettings
from serving.vllm_dtype import machine_dtype

# vLLM accepts these and no others (its config/lora.py).
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
MAX_LOGPROBS = 20
# Of the caller's Python, which must not reach another interpreter.
_DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "VLLM_API_KEY")


@dataclass(frozen=True, slots=True)
class Launch:
    """What is executed: `argv[0]` is the interpreter, `env` the whole environment."""

    argv: list[str]
    env: dict[str, str]


def lora_rank_slot(rank: int) -> int:
    """The smallest --max-lora-rank that takes adapters of `rank`. Raises `SetupError` above 512."""
    for slot in LORA_RANKS:
        if rank <= slot:
            return slot
    raise SetupError(f"vLLM serves LoRA ranks up to {LORA_RANKS[-1]}, not {rank}: lower MULLE_VLLM_MAX_LORA_RANK.")


def build_environment(settings: ServingSettings, environ: Mapping[str, str], cache_dir: Path) -> dict[str, str]:
    """The server's environment: the caller's, offline, with a key-value cache, LoRA updates and the API key."""
    env = {key: value for key, value in environ.items() if key not in _DROPPED}
    env.update(
        {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_CPU_KVCACHE_SPACE": str(settings.vllm_kv_cache_gib),
            # vLLM would keep one core for itself: on two cores that is half of the machine.
            "VLLM_CPU_NUM_OF_RESERVED_CPU": str(settings.vllm_reserved_cores),
            "PYTHONUNBUFFERED": "1",
        }
    )
    env.setdefault("VLLM_CACHE_ROOT", str(cache_dir.absolute()))
    key = settings.vllm_api_key.get_secret_value()
    if key:
        env["VLLM_API_KEY"] = key
    return env


def build_argv(settings: ServingSettings, base: BaseModel, port: int, dtype: str, eager: bool) -> list[str]:
    """The command line. `dtype` is auto | float32 | bfloat16 | float16."""
    argv = [str(settings.vllm_python.absolute()), "-m", "vllm.entrypoints.openai.api_server"]
    argv += ["--model", str(base.hf_dir), "--served-model-name", base.name]
    argv += ["--host", "127.0.0.1", "--port", str(port)]
    argv += ["--dtype", dtype, "--max-model-len", str(min(settings.vllm_max_model_len, base.context_length))]
    argv += ["--max-num-seqs", str(settings.vllm_max_num_seqs), "--seed", "0"]
    argv += ["--enable-lora", "--max-lora-rank", str(lora_rank_slot(settings.vllm_max_lora_rank))]
    argv += ["--max-loras", str(settings.vllm_max_loras)]
    argv += ["--max-cpu-loras", str(max(settings.vllm_max_cpu_loras, settings.vllm_max_loras))]
    argv += ["--chat-template", str(base.template_path), "--chat-template-content-format", "string"]
    argv += ["--generation-config", "vllm", "--max-logprobs", str(MAX_LOGPROBS)]
    argv += ["--enable-prefix-caching", "--disable-fastapi-docs"]
    return argv + (["--enforce-eager"] if eager else [])


def build_launch(
    settings: ServingSettings, base: BaseModel, environ: Mapping[str, str], run_dir: Path, port: int | None = None
) -> Launch:
    """Arguments and environment for `base`; measures the number format where it is `auto` and not known yet.

    Raises `SetupError` where the interpreter is missing, `ModelMissingError` where the checkpoint is.
    """
    if not settings.vllm_python.exists():
        raise SetupError(
            f"vLLM's interpreter {settings.vllm_python} does not exist: run `make setup`, or set MULLE_VLLM_PYTHON."
        )
    if not (base.hf_dir / "config.json").is_file():
        raise ModelMissingError(f"{base.hf_dir} holds no checkpoint: run `python -m serving.base_models prepare`.")
    env = build_environment(settings, environ, run_dir / "vllm-cache")
    dtype, device = machine_dtype(settings.vllm_python, env, run_dir / "vllm-dtype.json")
    if settings.vllm_dtype != "auto":
        dtype = settings.vllm_dtype
    # With LoRA enabled vLLM compiles nothing on a CPU whatever it is told (its platforms/cpu.py); eager says so.
    eager = device == "cpu" if settings.vllm_eager == "auto" else settings.vllm_eager == "yes"
    return Launch(build_argv(settings, base, port or settings.vllm_port, dtype, eager), env)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.vllm_server", description="Serve a base model with vLLM.")
    parser.add_argument("--base", type=Path, help="folder of a prepared base model (default: MULLE_BASE_NAME)")
    parser.add_argument("--port", type=int, help="TCP port on loopback (default: MULLE_VLLM_PORT)")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    lake, settings = LakeSettings(), ServingSettings()
    if args.base is not None:
        root = args.base.resolve()
        base = load_base(root.parent.parent, root.name)
    else:
        base = load_base(lake.models_dir, settings.base_name)
    port = args.port or settings.vllm_port
    require_free_port(port, "vLLM")
    launch = build_launch(settings, base, os.environ, lake.run_dir, port)
    print(f"[vllm] {base.name} on 127.0.0.1:{port}: {' '.join(launch.argv[3:])}", flush=True)
    os.execve(launch.argv[0], launch.argv, launch.env)


if __name__ == "__main__":
    sys.exit(exit_code(main))
