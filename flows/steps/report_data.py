"""What a run left on disk, read for the report: stage records, evaluations, dataset facts.

Reads `data/runs/<run_id>/*.json` (stage records, evaluations, gate decisions, demo.json), and the manifest and the
rejects of the dataset version that was trained on. Writes nothing. Invariant: a file that cannot be used becomes an
entry of `unreadable`, it never stops the report.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson

from lake.errors import InputError

BACKEND_ORDER = ("vllm", "lmstudio")
EVALUATION_PREFIX = "evaluation-"
GATE_PREFIX = "gate-"
DEMO_FILE = "demo.json"
# Who names the dataset that was trained on, best first: synthesis may have made a newer one than build.
_DATASET_STAGES = ("finetune", "synthesize", "build")
SAMPLES_PER_REASON = 3
SAMPLE_CHARS = 200
_VERSION = re.compile(r"^[0-9a-f]{8,64}$")
_COUNT_KEYS = ("drops", "dropped", "rejected_by_reason", "drops_by_reason", "quarantined_by_reason")
_SAMPLE_KEYS = ("rejects", "samples", "drop_samples", "reject_samples")
_SAMPLE_TEXTS = ("sample", "text", "question", "source_id")

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage record. `status`: ok or failed; a failed one holds `error` and `message` in its report."""

    name: str
    started: str
    seconds: float
    status: str
    report: Facts


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation file: figures and answers of both arms on one backend."""

    backend: str
    n: int
    facts: Facts  # base_model, tuned_model, adapter_id, test_sha256, started, seconds
    metrics: dict[str, Facts]
    items: list[Facts]


@dataclass(frozen=True, slots=True)
class Drop:
    """Rows that a stage left out for one reason."""

    stage: str
    reason: str
    count: int
    samples: list[str]


@dataclass(frozen=True, slots=True)
class RunData:
    """All that is known of a run; `stages` in the order in which they started."""

    run_id: str
    stages: list[Stage]
    evaluations: list[Evaluation]
    dataset: Facts
    drops: list[Drop]
    gates: list[tuple[str, Facts]] = field(default_factory=list[tuple[str, Facts]])  # backend, decision
    demo: Facts = field(default_factory=dict[str, Any])  # seconds of the demo's own stages, traffic counts
    unreadable: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def stage(self, name: str) -> Stage | None:
        """The record of a stage, None where it did not run."""
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def failed(self) -> Stage | None:
        """The stage that broke the run: the failed one that started last (a parent flow starts before it)."""
        return next((stage for stage in reversed(self.stages) if stage.status != "ok"), None)

    @property
    def training(self) -> Facts:
        """Content of the adapter's metrics.json, empty where nothing was trained."""
        stage = self.stage("finetune")
        return as_facts(stage.report.get("training")) if stage else {}


def as_facts(value: Any) -> Facts:
    """`value` where it is a mapping, else an empty one."""
    return cast("Facts", value) if isinstance(value, dict) else {}


def as_rows(value: Any) -> list[Facts]:
    """The mappings in `value` where it is a list, else none."""
    return [cast("Facts", row) for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A finite number, else None (JSON's null, a text, NaN written as null)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def load_run(run_folder: Path) -> RunData:
    """Read a run. Raises `InputError` where the folder does not exist."""
    if not run_folder.is_dir():
        raise InputError(f"There is no run at {run_folder}: check the run id (data/runs holds one folder a run).")
    stages: list[Stage] = []
    evaluations: list[Evaluation] = []
    gates: list[tuple[str, Facts]] = []
    demo: Facts = {}
    unreadable: list[tuple[str, str]] = []
    for path in sorted(run_folder.glob("*.json")):
        try:
            content = orjson.loads(path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            unreadable.append((path.name, str(error)))
            continue
        if not isinstance(content, dict):
            unreadable.append((path.name, "not a JSON object"))
        elif path.name.startswith(EVALUATION_PREFIX):
            evaluations.append(_evaluation(path, cast("Facts", content)))
        elif path.name.startswith(GATE_PREFIX):
            gates.append((path.stem.removeprefix(GATE_PREFIX), cast("Facts", content)))
        elif path.name == DEMO_FILE and "stage" not in content:
            demo = cast("Facts", content)
        elif "stage" in content:
            stages.append(_stage(cast("Facts", content)))
    stages.sort(key=lambda stage: (stage.started, stage.name))
    evaluations.sort(key=lambda one: (_backend_rank(one.backend), one.backend))
    dataset, rejects = _dataset(stages, run_folder.resolve().parent.parent / "datasets")
    gates.sort(key=lambda gate: (_backend_rank(gate[0]), gate[0]))
    drops = [d for stage in stages for d in _drops(stage, rejects if stage.name in _DATASET_STAGES else {})]
    return RunData(run_folder.resolve().name, stages, evaluations, dataset, drops, gates, demo, unreadable)


def _stage(content: Facts) -> Stage:
    return Stage(
        name=str(content["stage"]),
        started=str(content.get("started") or ""),
        seconds=number(content.get("seconds")) or 0.0,
        status=str(content.get("status") or "failed"),
        report=as_facts(content.get("report")),
    )


def _evaluation(path: Path, content: Facts) -> Evaluation:
    items = as_rows(content.get("items"))
    keys = ("base_model", "tuned_model", "adapter_id", "test_sha256", "started", "seconds")
    metrics = as_facts(content.get("metrics"))
    return Evaluation(
        backend=str(content.get("backend") or path.stem.removeprefix(EVALUATION_PREFIX)),
        n=int(number(content.get("n")) or len(items)),
        facts={key: content[key] for key in keys if content.get(key) not in (None, "")},
        metrics={name: as_facts(value) for name, value in metrics.items()},
        items=items,
    )


def _backend_rank(backend: str) -> int:
    return BACKEND_ORDER.index(backend) if backend in BACKEND_ORDER else len(BACKEND_ORDER)


def _dataset(stages: list[Stage], datasets_dir: Path) -> tuple[Facts, dict[str, list[str]]]:
    """Facts of the dataset that was trained on, and samples of its rejects by reason.

    Its manifest holds them; where that is gone, what the build stage reported of the same version.
    """
    done = {stage.name: stage.report for stage in stages if stage.status == "ok"}
    named = (done.get(name, {}).get("dataset") for name in _DATASET_STAGES)
    version = next((name for name in named if isinstance(name, str) and _VERSION.match(name)), "")
    build = done.get("build", {})
    facts: Facts = dict(build) if build.get("dataset") in (None, version) else {}
    if not version:
        return facts, {}
    folder = datasets_dir / version
    samples: dict[str, list[str]] = {}
    try:
        facts |= as_facts(orjson.loads((folder / "manifest.json").read_bytes()))
        for line in (folder / "rejects.jsonl").read_bytes().splitlines():
            _add_sample(samples, as_facts(orjson.loads(line)))
    except (OSError, orjson.JSONDecodeError):
        pass  # the reports of the stages still hold the counts
    return facts | {"version": version}, samples


def _add_sample(samples: dict[str, list[str]], row: Mapping[str, Any]) -> None:
    reason = str(row.get("reason") or "")
    kept = samples.setdefault(reason, [])
    text = next((str(row[key]) for key in _SAMPLE_TEXTS if row.get(key)), "")
    if not text and row.get("line"):
        text = f"line {row['line']}"
    if text and text[:SAMPLE_CHARS] not in kept and len(kept) < SAMPLES_PER_REASON:
        kept.append(text[:SAMPLE_CHARS])


def _walk(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Key and value of every mapping inside a report, a few levels deep."""
    if depth < 4 and isinstance(value, dict):
        for key, inner in cast("Facts", value).items():
            yield key, inner
            yield from _walk(inner, depth + 1)


def _drops(stage: Stage, more_samples: Mapping[str, list[str]]) -> list[Drop]:
    """Counts by reason wherever the stage's report holds them, with samples where it kept some."""
    counts: dict[str, int] = {}
    listed: dict[str, int] = {}
    samples: dict[str, list[str]] = {reason: list(texts) for reason, texts in more_samples.items()}
    for key, value in _walk(stage.report):
        if key in _COUNT_KEYS:
            for reason, count in as_facts(value).items():
                if number(count):  # the same counter may stand at two places of a report: the larger one holds
                    counts[reason] = max(counts.get(reason, 0), int(count))
        elif key in _SAMPLE_KEYS:
            for row in as_rows(value):
                if reason := str(row.get("reason") or ""):
                    listed[reason] = listed.get(reason, 0) + 1
                    _add_sample(samples, row)
            for reason, texts in as_facts(value).items():
                for text in texts if isinstance(texts, list) else ():
                    _add_sample(samples, {"reason": reason, "sample": text})
    for reason, count in listed.items():
        counts.setdefault(reason, count)
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [Drop(stage.name, reason, count, samples.get(reason, [])) for reason, count in ordered]
