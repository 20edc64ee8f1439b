"""Train one adapter: `python -m flows.steps.train --config C --dataset DIR --base HF_DIR --out DIR
[--progress FILE]`.

A process of its own, so that its memory is returned when it ends. Reads a dataset version and a checkpoint
folder; writes DIR whole or not at all (a temporary folder beside it, then one rename). Exit code 0, or that
of the error, whose last line on stderr says what to do.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.steps.train_config import TrainConfig, load_config
from flows.steps.train_rows import TokenRows, check_manifest, read_rows, split_file, tokenise
from lake.errors import DatasetError, MulleError, TrainingError
from lake.files import fsync_dir, sha256_file, write_json_atomic
from lake.progress import Progress


def run(
    config: TrainConfig, dataset_dir: Path, hf_dir: Path, out_dir: Path, progress_file: Path | None
) -> dict[str, Any]:
    """Train, prove and write the adapter; returns what metrics.json holds. Raises `MulleError` kinds."""
    begun = time.monotonic()
    import psutil
    import torch
    from transformers import AutoTokenizer, set_seed

    from flows.steps.reference import pick_probes, write_reference
    from flows.steps.train_loop import train
    from flows.steps.train_model import base_info, choose_dtype, load_base
    from flows.steps.train_output import (
        environment,
        peak_memory_bytes,
        save_weights,
        write_card,
        write_manifest,
    )

    if out_dir.exists():
        raise TrainingError(f"{out_dir} exists already: give --out a new folder.")
    threads = config.threads or psutil.cpu_count(logical=False) or 1
    torch.set_num_threads(threads)
    set_seed(config.seed)
    manifest = check_manifest(dataset_dir)
    base = base_info(hf_dir)
    expected = (manifest.get("inputs") or manifest).get("template_sha256")
    if expected and expected != base.template_sha256:
        raise DatasetError(
            "The dataset was built for another chat template than the base has (sha256 differs): build it again."
        )
    tokenizer = AutoTokenizer.from_pretrained(hf_dir, local_files_only=True, trust_remote_code=False)
    splits = {name: _split(dataset_dir, name, tokenizer, base.template, config) for name in ("train", "holdout")}
    rows, holdout = splits["train"].rows, splits["holdout"].rows
    dtype_name, speeds = choose_dtype(config)
    model = load_base(config, hf_dir, dtype_name)
    setup_s = time.monotonic() - begun
    progress = Progress(progress_file, "train", _planned_steps(config, len(rows)))
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".train-", dir=out_dir.parent))
    try:
        with tempfile.TemporaryDirectory() as scratch:
            trained = train(config, model, tokenizer, rows, holdout, Path(scratch), base.name, dtype_name, progress)
        progress.finish(f"{trained.steps} steps, stopped by {trained.state.stopped_by}")
        after = time.monotonic()
        save_weights(trained.model, work, base.name)
        prompt_tokens = sum(row.prompt_len for row in rows)
        metrics = {
            "history": trained.state.history,
            "eval_history": trained.state.eval_history,
            "steps": trained.steps,
            "epochs": round(trained.epochs, 3),
            "stopped_by": trained.state.stopped_by,
            "rows_train": len(rows),
            "rows_holdout": len(holdout),
            "refused_too_long": {name: split.too_long for name, split in splits.items()},
            "longest_row_tokens": max(split.longest for split in splits.values()),
            "prompt_tokens": prompt_tokens,
            "completion_tokens": sum(len(row.ids) for row in rows) - prompt_tokens,
            "truncated": 0,  # a row is refused whole, never cut
            "train_seconds": round(trained.seconds, 2),
            "setup_seconds": round(setup_s, 2),
            "dtype": dtype_name,
            "dtype_gflops": speeds,
            "quantisation": _quantisation(config),
            "final_loss": trained.state.history[-1]["loss"] if trained.state.history else None,
            "best_loss": trained.state.best_loss if holdout else None,
            "best_step": trained.state.best_step or trained.steps,
            "trainable_parameters": sum(p.numel() for p in trained.model.parameters() if p.requires_grad),
            "hparams": config.to_dict(),
        }
        del trained, model
        probes = pick_probes(holdout or rows, config.probes)
        reference = write_reference(work, hf_dir, base.name, probes)
        metrics["reference"] = reference
        metrics["finish_seconds"] = round(time.monotonic() - after, 2)
        metrics["peak_memory_bytes"] = peak_memory_bytes()
        dataset = {
            "version": str(manifest.get("version") or dataset_dir.name),
            "manifest_sha256": sha256_file(dataset_dir / "manifest.json"),
            "train_sha256": sha256_file(split_file(dataset_dir, "train")),
        }
        write_json_atomic(work / "metrics.json", metrics)
        write_json_atomic(work / "training_config.json", config.to_dict())
        write_json_atomic(work / "environment.json", environment(threads))
        write_card(work, base, dataset, metrics)
        work.chmod(0o755)
        write_manifest(work, base, dataset, config.to_dict(), reference)
        work.rename(out_dir)
        fsync_dir(out_dir.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return metrics


def _split(dataset_dir: Path, name: str, tokenizer: Any, template: str, config: TrainConfig) -> TokenRows:
    """A split's token rows; the hold-out may be absent, the training rows may not."""
    path = split_file(dataset_dir, name)
    if name == "holdout" and not path.exists():
        return TokenRows([])
    found = tokenise(read_rows(path), tokenizer, template, config.max_length)
    if found.too_long:
        lines = ", ".join(map(str, found.too_long_lines[:10]))
        print(
            f"{path.name}: {found.too_long} rows refused, longer than max_length = {config.max_length} "
            "tokens "
            f"(longest {found.longest}); rows {lines}",
            file=sys.stderr,
        )
    if name == "train" and not found.rows:
        raise DatasetError(
            f"{path} has no row of at most {config.max_length} tokens ({found.too_long} longer): raise max_length."
        )
    return found


def _planned_steps(config: TrainConfig, rows: int) -> int:
    """Optimiser steps if time allows, as transformers counts them."""
    if config.max_steps:
        return config.max_steps
    batches = -(-rows // config.batch_size)
    return max(1, int(-(-batches // config.grad_accumulation) * config.epochs + 0.999))


def _quantisation(config: TrainConfig) -> str:
    if config.method == "lora":
        return "none"
    return config.quant_type + (" + double quantisation" if config.double_quant else "")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0 when the adapter is written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="TOML file of hyperparameters")
    parser.add_argument("--dataset", type=Path, required=True, help="folder of a dataset version")
    parser.add_argument("--base", type=Path, required=True, help="Hugging Face checkpoint folder of the base")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the adapter")
    parser.add_argument("--progress", type=Path, default=None, help="JSON-lines file that progress is appended to")
    given = parser.parse_args(argv)
    try:
        metrics = run(load_config(given.config), given.dataset, given.base, given.out, given.progress)
    except MulleError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    print(f"adapter written to {given.out}: {metrics['steps']} steps in {metrics['train_seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
