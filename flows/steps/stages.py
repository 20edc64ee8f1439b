"""Binds the steps to one run: settings in, ids and folders resolved, a JSON-able report out.

The steps themselves (build, finetune, evaluate, ...) take plain arguments and know nothing of settings; here is
the one place that says which settings and which files each of them gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.steps.build import BuildInputs, run_build
from flows.steps.build_config import load_config, parse_changes
from flows.steps.build_read import read_lineage
from flows.steps.evaluate import run_evaluate
from flows.steps.finetune import run_finetune
from flows.steps.gate import decide, load_gate
from flows.steps.parts import fresh_cases, open_base, open_builder, open_catalog, open_retriever, read_cases
from flows.steps.promote import run_promote
from flows.steps.serve import running_stack, tuned_arms
from flows.steps.stage import StageContext
from lake.errors import DatasetError, GateError
from lake.files import read_json, sha256_file, write_json_atomic
from lake.registry import Registry
from lake.withdrawn import is_withdrawn
from serving.gguf_export import export

Report = dict[str, Any]


def build_stage(stage: StageContext, config: str | None = None, change: Sequence[str] | None = None) -> Report:
    """A dataset version from the lake, for the base model of the settings. `config`: a TOML file; `change`: name=value,
    each in the place of what the file says.
    """
    base, lake = open_base(stage), stage.lake
    tools = open_catalog(stage).tools
    report = run_build(
        lake.lake_dir,
        lake.datasets_dir,
        BuildInputs(
            builder=open_builder(stage),
            test_file=stage.flows.test_set,
            tools=tools,
            lineage=read_lineage(
                lake.models_dir, lake.datasets_dir, lake.lake_dir, frozenset({stage.serving.base_name})
            ),
            template_sha256=base.template_sha256,
            tokenizer_sha256=sha256_file(base.tokenizer_path),
        ),
        load_config(Path(config) if config else stage.flows.build_config, parse_changes(change or ())),
        run_id=stage.run_id,
        progress_path=stage.progress_file,
        say=stage.log,
    )
    cases = read_cases(stage.flows.test_set)
    fresh, stale = fresh_cases(cases, tools)
    return report | {"test_questions": len(cases), "stale_test_questions": stale, "fresh_test_questions": len(fresh)}


def newest_dataset(datasets_dir: Path) -> str:
    """The version written last. Raises `DatasetError` where there is none."""
    kept = [path for path in datasets_dir.glob("*/manifest.json") if not is_withdrawn(path.parent)]
    manifests = sorted(kept, key=lambda path: path.stat().st_mtime_ns)
    if not manifests:
        raise DatasetError(f"There is no dataset below {datasets_dir}: run `python -m flows.build` first.")
    return manifests[-1].parent.name


def finetune_stage(stage: StageContext, config: str | None, dataset: str | None) -> Report:
    """One adapter from one dataset version; `training` holds its metrics with the curves, for the page."""
    version = dataset or newest_dataset(stage.lake.datasets_dir)
    report = run_finetune(
        config_file=Path(config) if config else stage.flows.train_config,
        dataset_dir=stage.lake.datasets_dir / version,
        hf_dir=open_base(stage).hf_dir,
        models_dir=stage.lake.models_dir,
        log_file=stage.run_folder / "train.log",
        progress_file=stage.progress_file,
        log=stage.log,
    )
    training = read_json(Path(report["adapter_path"]) / "metrics.json")
    return report | {"adapter": report["adapter_id"], "dataset": version, "training": training}


def evaluate_stage(stage: StageContext, adapter: str | None, backend: str, limit: int | None) -> Report:
    """Both arms on one backend, and the gate's decision on what they show."""
    registry = Registry(stage.lake.models_dir)
    entry = registry.get(adapter) if adapter else registry.list()[-1]
    tools = open_catalog(stage).tools
    cases, stale = fresh_cases(read_cases(stage.flows.test_set), tools)
    if stale:
        stage.log(f"test questions left out, their answers do not fit the catalogue any more: {stale}")
    out_file = stage.run_folder / f"evaluation-{backend}.json"
    with tuned_arms(stage, backend, entry) as arms:
        report = run_evaluate(
            cases=cases,
            tools=tools,
            retriever=open_retriever(stage),
            builder=open_builder(stage),
            backends=arms.backends,
            backend_name=backend,
            adapter_id=entry.adapter_id,
            run_id=stage.run_id,
            out_file=out_file,
            lake_dir=stage.lake.lake_dir,
            progress=stage.progress(2 * min(limit or len(cases), len(cases))),
            test_sha256=sha256_file(stage.flows.test_set),
            limit=limit,
            concurrency=arms.concurrency,
            max_tokens=stage.flows.eval_max_tokens,
        )
    champion = registry.champion()
    record = decide(
        read_json(out_file),
        load_gate(stage.flows.gate_config),
        champion.adapter_id if champion else None,
        entry.adapter_id,
    )
    write_json_atomic(stage.run_folder / f"gate-{backend}.json", record)
    failed = [check["name"] for check in record["checks"] if not check["passed"]]
    stage.log(f"gate: {'passed' if record['passed'] else 'refused, failed: ' + ', '.join(failed)}")
    return report | {
        "adapter": entry.adapter_id, "passed": record["passed"], "failed_checks": failed, "stale_cases": stale,
    }  # fmt: skip


def promote_stage(stage: StageContext, adapter: str | None) -> Report:
    """The adapter that this run's gate judged, loaded and proven on vLLM, then in service."""
    record_file = stage.run_folder / "gate-vllm.json"
    if not record_file.exists():
        raise GateError(f"Run {stage.run_id} has no gate record ({record_file}): run `python -m flows.evaluate` first.")
    record: Mapping[str, Any] = read_json(record_file)
    chosen = adapter or str(record["adapter_id"])
    url = running_stack(stage).ensure_vllm() if stage.serving.vllm_python.exists() else ""
    report = run_promote(
        models_dir=stage.lake.models_dir,
        adapter_id=chosen,
        gate_record=record,
        base=open_base(stage),
        actor=f"flow:{stage.run_id}",
        progress=stage.progress(5),
        vllm_url=url,
        vllm_api_key=stage.serving.vllm_api_key.get_secret_value(),
        max_rank=stage.serving.vllm_max_lora_rank,
    )
    return report | {"adapter": chosen}


def export_stage(stage: StageContext, adapter: str | None, quantisation: str) -> Report:
    """The merged GGUF of `adapter` (default: the champion)."""
    registry = Registry(stage.lake.models_dir)
    entry = registry.get(adapter) if adapter else registry.champion()
    if entry is None:
        raise GateError("There is no champion to export yet: promote an adapter, or name one with `adapter`.")
    out = stage.lake.gguf_dir / entry.adapter_id / f"{entry.adapter_id}-{quantisation}.gguf"
    report = export(entry.path, open_base(stage), out, quantisation)
    return report | {"adapter": entry.adapter_id, "path": str(out)}
