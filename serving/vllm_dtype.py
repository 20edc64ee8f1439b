"""Which number format vLLM should use on this machine: measured once, decided by a pure function.

A CPU without native bfloat16 multiplies it 35 times slower than float32; one that has it is faster with it. The
measurement runs in vLLM's own interpreter (its torch decides), takes about two seconds, and is cached in
`<run_dir>/vllm-dtype.json` under the machine and interpreter it is true for.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from lake.errors import SetupError
from lake.files import read_json, write_json_atomic

# A prompt of 256 tokens and a decode step of 4 sequences, through one layer-like weight that no cache holds.
_SCRIPT = """
import json, time
import torch
if torch.cuda.is_available():
    print(json.dumps({"device": "cuda"}))
    raise SystemExit
def best(rows, dtype, n):
    x, w = torch.randn(rows, 1024).to(dtype), torch.randn(n, 1024).to(dtype)
    torch.nn.functional.linear(x, w)
    times = []
    while len(times) < 3 or (sum(times) < 0.2 and len(times) < 20):
        start = time.perf_counter()
        torch.nn.functional.linear(x, w)
        times.append(time.perf_counter() - start)
    return min(times) / (n * 1024)
result = {"device": "cpu", "torch": torch.__version__}
for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
    result[name] = {"prefill_token_s": best(256, dtype, 4096) / 256, "decode_step_s": best(4, dtype, 65536) / 4}
print(json.dumps(result))
"""
_TIMEOUT_S = 120.0
# Tokens of the usual request here, and how much faster bfloat16 has to be before its rounding is accepted.
PROMPT_TOKENS = 260
ANSWER_TOKENS = 60
WORTH_IT = 1.2


@dataclass(frozen=True, slots=True)
class DtypeTimes:
    """Seconds a token and weight: while reading a prompt, and while writing four answers at once."""

    prefill_token_s: float
    decode_step_s: float

    def request_s(self) -> float:
        """Relative cost of the usual request."""
        return PROMPT_TOKENS * self.prefill_token_s + ANSWER_TOKENS * self.decode_step_s


def choose_dtype(float32: DtypeTimes, bfloat16: DtypeTimes) -> str:
    """float32, unless bfloat16 makes the usual request at least 1.2 times faster.

    float32 is what the reference log-probabilities of an adapter are computed in, hence the preference.
    """
    return "bfloat16" if float32.request_s() >= WORTH_IT * bfloat16.request_s() else "float32"


def _machine(python: Path) -> str:
    """What the measurement depends on; another machine or interpreter measures again."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = {line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "flags"))}
        model = " ".join(sorted(kept)) or model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{python.absolute()}|{cores}|{model}"


def measure(python: Path, environ: Mapping[str, str]) -> dict[str, object]:
    """Run the measurement in `python`. Raises `SetupError` where that interpreter has no working torch."""
    try:
        done = subprocess.run(
            [str(python), "-c", _SCRIPT],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env=dict(environ),
        )
        result = orjson.loads(done.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, IndexError, orjson.JSONDecodeError) as error:
        raise SetupError(
            f"vLLM's interpreter {python} can't run torch ({type(error).__name__}): run `make setup`, or point "
            "MULLE_VLLM_PYTHON to the interpreter that has vLLM."
        ) from error
    return dict(result)


def machine_dtype(python: Path, environ: Mapping[str, str], cache: Path) -> tuple[str, str]:
    """(dtype, device) for `python` on this machine, measured at most once; on a GPU ("auto", "cuda")."""
    machine = _machine(python)
    try:
        known = read_json(cache)
        if known["machine"] == machine:
            return str(known["dtype"]), str(known["device"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    result = measure(python, environ)
    if result["device"] == "cuda":
        record: dict[str, object] = {"machine": machine, "device": "cuda", "dtype": "auto"}
    else:
        float32, bfloat16 = (DtypeTimes(**result[name]) for name in ("float32", "bfloat16"))  # type: ignore[arg-type]
        record = {
            "machine": machine,
            "device": "cpu",
            "dtype": choose_dtype(float32, bfloat16),
            "float32": asdict(float32),
            "bfloat16": asdict(bfloat16),
            "torch": result["torch"],
        }
    write_json_atomic(cache, record)
    return str(record["dtype"]), str(record["device"])
