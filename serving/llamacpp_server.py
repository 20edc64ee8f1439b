"""llama.cpp's OpenAI-compatible server on loopback: the stand-in for LM Studio, which runs the same engine.

    python -m serving.llamacpp_server --model models/base/gemma3-270m/base.gguf --alias gemma3-270m --port 8102

Serves one GGUF with the chat template that the file carries, greedily unless a request says otherwise. Prints
one line when it is ready, ends with code 0 on SIGTERM or SIGINT. The API key comes from the environment
variable named by --api-key-env, never from the command line.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from lake.errors import ModelMissingError, SetupError
from serving.cli import exit_code
from serving.processes import require_free_port

SEED = 20251123  # any fixed number: only matters where a request asks for sampling


def argument_vector(
    python: Path, model: Path, alias: str, port: int, ctx: int, slots: int, threads: int, api_key_env: str = ""
) -> list[str]:
    """The command line that starts this module; `ctx` is tokens a request, `threads` 0 means one a core."""
    argv = [str(python), "-m", "serving.llamacpp_server", "--model", str(model), "--alias", alias]
    argv += ["--port", str(port), "--ctx", str(ctx), "--slots", str(slots), "--threads", str(threads)]
    return argv + (["--api-key-env", api_key_env] if api_key_env else [])


def check_model(path: Path) -> None:
    """Raise `ModelMissingError` where `path` is not a GGUF file (only its first bytes are read)."""
    try:
        with path.open("rb") as handle:
            magic = handle.read(8)
    except OSError as error:
        raise ModelMissingError(
            f"The GGUF file {path} can't be read ({error.strerror}): run `python -m serving.base_models prepare`."
        ) from error
    if magic[:4] != b"GGUF" or len(magic) < 8:
        raise ModelMissingError(f"{path} is not a GGUF file: remove it and prepare or export it again.")


def _engine() -> Any:
    """The binding, imported late: it loads llama.cpp's library and has no types."""
    return importlib.import_module("xllamacpp")


def make_params(model: Path, alias: str, port: int, ctx: int, slots: int, threads: int, api_key: str) -> Any:
    """xllamacpp's parameters; the context is divided among the slots, so each gets `ctx` tokens."""
    params = _engine().CommonParams()
    params.model.path = str(model)
    params.model_alias = {alias}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = slots
    params.n_ctx = ctx * slots
    params.kv_unified = False
    params.fit_params = False
    params.n_gpu_layers = 0
    params.use_jinja = True
    params.sampling.temp = 0.0
    params.sampling.seed = SEED
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.ui = False
    params.endpoint_slots = False
    params.offline = True
    params.verbosity = 1
    if threads:
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
    if api_key:
        params.api_keys = [api_key]
    return params


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.llamacpp_server", description="Serve one GGUF.")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--alias", required=True, help="model name that clients ask for")
    parser.add_argument("--port", type=int, required=True, help="TCP port on loopback")
    parser.add_argument("--ctx", type=int, default=2048, help="prompt plus answer of one request, tokens")
    parser.add_argument("--slots", type=int, default=2, help="requests worked on at once")
    parser.add_argument("--threads", type=int, default=0, help="0: one a core")
    parser.add_argument("--api-key-env", default="", help="environment variable that holds the bearer key")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    check_model(args.model)
    require_free_port(args.port, "llama.cpp's server")
    key = os.environ.get(args.api_key_env, "") if args.api_key_env else ""
    if args.api_key_env and not key:
        raise SetupError(f"The environment variable {args.api_key_env} is empty: put the API key there.")

    # Blocked before any thread exists, so every thread inherits it and only sigwait below sees them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    engine = _engine()
    try:
        params = make_params(args.model, args.alias, args.port, args.ctx, args.slots, args.threads, key)
        server = engine.Server(params)
    except Exception as error:  # the binding raises bare RuntimeErrors
        raise ModelMissingError(
            f"llama.cpp can't load {args.model} ({str(error).strip() or 'no reason given'}): the file may be "
            "damaged or the memory too small; prepare or export it again."
        ) from error
    print(f"[llamacpp] {args.alias} is ready at {server.listening_address}", flush=True)
    signal.sigwait(signals)
    print("[llamacpp] stopping", flush=True)
    del server
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
