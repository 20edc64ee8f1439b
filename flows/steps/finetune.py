"""Train in a process of its own, with its progress shown, and register what comes out as a candidate.

Reads a dataset version, a base and a config; writes `models/adapters/<id>/`, the registry's log and the
training log. Invariant: everything that can be known to be wrong is refused before training starts, and a
failed run leaves no adapter behind.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ulid import ULID

from flows.steps.train_config import TrainConfig, load_config
from flows.steps.train_rows import check_manifest, read_rows, split_file
from lake.errors import DatasetError, InputError, ModelMissingError, TrainingError
from lake.files import read_json, require_free_disk, sha256_file
from lake.registry import Registry
from lake.withdrawn import require_kept

_TAIL_LINES = 12
# Kept out of the training process: it needs none of them, and a log line could show them.
_SECRETS = (
    "LLM_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "MULLE_VLLM_API_KEY", "MULLE_SYNTH_API_KEY", "MULLE_TEACHER_API_KEY",
)  # fmt: skip
_FREE_BYTES = 500_000_000  # an adapter, its copy while it is registered, and logs


def preflight(config: TrainConfig, dataset_dir: Path, hf_dir: Path, template_file: Path | None) -> dict[str, Any]:
    """Everything that is cheap to check before a process is started; returns the counts of rows."""
    if not any(hf_dir.glob("*.safetensors")):
        raise ModelMissingError(f"{hf_dir} holds no safetensors checkpoint: run `make models` first.")
    own = hf_dir / "chat_template.jinja"
    if not own.exists():
        raise ModelMissingError(f"{hf_dir} has no chat_template.jinja: prepare the base again.")
    if template_file is not None and sha256_file(own) != sha256_file(template_file):
        raise ModelMissingError(
            f"{own} is not {template_file} (sha256 differs): prepare the base again, so that training and "
            "serving agree."
        )
    manifest = check_manifest(dataset_dir)
    expected = (manifest.get("inputs") or manifest).get("template_sha256")
    if expected and expected != sha256_file(own):
        raise DatasetError(f"{dataset_dir} was built for another chat template than the base has: build it again.")
    counts = {"rows_train": len(read_rows(split_file(dataset_dir, "train")))}
    if not counts["rows_train"]:
        raise DatasetError(f"{dataset_dir} has no training row: import reviews, then build again.")
    holdout = split_file(dataset_dir, "holdout")
    counts["rows_holdout"] = len(read_rows(holdout)) if holdout.exists() else 0
    if config.max_steps == 0 and config.max_seconds == 0 and config.epochs > 100:
        raise InputError(
            "The training config has neither max_steps nor max_seconds, and epochs > 100: set one of them."
        )
    return counts


def run_finetune(
    *,
    config_file: Path,
    dataset_dir: Path,
    hf_dir: Path,
    models_dir: Path,
    log_file: Path,
    progress_file: Path | None,
    template_file: Path | None = None,
    actor: str = "finetune",
    log: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train one adapter and add it as candidate; returns its metrics without the curves, plus adapter_id and
    path.

    `log` is called with the trainer's own lines. Raises `InputError` kinds before anything runs,
    `TrainingError` with the last lines of the log afterwards. A repeat trains again; the same result has the
    same id.
    """
    config = load_config(config_file)
    counts = preflight(config, dataset_dir, hf_dir, template_file)
    require_free_disk(models_dir, _FREE_BYTES, "Training")
    registry = Registry(models_dir)
    registry.adapters_dir.mkdir(parents=True, exist_ok=True)
    out = registry.adapters_dir / f".incoming-{str(ULID()).lower()}"
    command = [sys.executable, "-m", "flows.steps.train", "--config", str(config_file)]
    command += ["--dataset", str(dataset_dir), "--base", str(hf_dir), "--out", str(out)]
    if progress_file is not None:
        command += ["--progress", str(progress_file)]
    begun = time.monotonic()
    try:
        _run(command, log_file, log)
        require_kept(dataset_dir)  # rows of it may have been erased while it was trained on
        entry = registry.add(out, actor, move=True)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    metrics = read_json(entry.path / "metrics.json")
    return {
        "adapter_id": entry.adapter_id,
        "adapter_path": str(entry.path),
        "state": entry.state,
        "base_model": entry.base_model,
        "dataset_version": entry.dataset_version,
        **counts,
        **{key: value for key, value in metrics.items() if key not in ("history", "eval_history", "hparams")},
        "hparams": asdict(config),
        "process_seconds": round(time.monotonic() - begun, 2),
        "log": str(log_file),
    }


def _run(command: list[str], log_file: Path, log: Callable[[str], None]) -> None:
    """Run the trainer to its end. Raises `TrainingError` with the tail of its output."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    # training never goes to a hub: what is missing must be a clear error, not a download
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    with (
        log_file.open("wb") as sink,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        try:
            assert process.stdout is not None
            for raw in process.stdout:
                sink.write(raw)
                line = raw.decode("utf-8", "replace").rstrip().rsplit("\r", 1)[-1]
                if line:
                    tail.append(line)
                    log(line)
            code = process.wait()
        finally:
            if process.poll() is None:  # Ctrl-C, or the flow was cancelled: never leave a trainer behind
                process.terminate()
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
    if code != 0:
        reason = "was killed, probably out of memory" if code in (-9, 137) else f"ended with code {code}"
        said = "\n".join(tail) or "it printed nothing"
        raise TrainingError(f"The trainer {reason}. Last lines of {log_file}:\n{said}", code=code)
