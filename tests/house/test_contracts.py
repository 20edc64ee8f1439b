"""The import contracts of pyproject.toml hold, and there are the five that the layout promises."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_import_contracts_hold() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_contracts_cover_every_room() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    assert set(config["root_packages"]) == {"flows", "gateway", "serving", "lake"}
    layers = next(c for c in config["contracts"] if c["type"] == "layers")["layers"]
    assert layers == ["flows | gateway", "serving", "lake"]
    forbidden = {name for c in config["contracts"] if c["type"] == "forbidden" for name in c["forbidden_modules"]}
    assert {"prefect", "fastapi", "trl", "peft", "bitsandbytes", "vllm"} <= forbidden
