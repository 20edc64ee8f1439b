"""The report of a run: one HTML file that needs nothing else, and the table that a demo ends with.

Reads `data/runs/<run_id>/` (report_data.py); writes one file, atomically. It makes no request when opened: charts
are inline SVG, style and script are inline and named by hash in its content security policy, and everything that
comes from a run is escaped. Invariant: a run that failed, at any stage, still gets a page that says where.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from flows.steps.fonts import embedded_font
from flows.steps.machine import machine_facts, package_versions, source_commit, vllm_versions
from flows.steps.report_charts import difference_chart, loss_chart, time_chart
from flows.steps.report_data import RunData, as_facts, load_run
from flows.steps.report_figures import backend_name, figure_rows, verdict_sentences
from flows.steps.report_labels import BACKENDS, Lang, stage_label, texts
from flows.steps.report_table import summary_table
from flows.steps.report_view import cards, choices, dataset_tables, demo_seconds, duration, flatten, gate_sentences
from lake.errors import InputError
from lake.files import write_text_atomic

__all__ = ["ReportSummary", "build_report", "run_environment", "summary_table"]

_TEMPLATES = Path(__file__).parent / "templates"
# Stages that hold others: their seconds would count the same time twice.
_PARENTS = ("cycle", "demo")


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What was written. `status`: ok, failed (`failed_stage` says where), or incomplete (no evaluation)."""

    out_file: Path
    run_id: str
    status: str
    failed_stage: str
    verdict: list[str]
    questions: int
    backends: list[str]
    bytes: int


def run_environment(vllm_python: Path | None = None, source: Path | None = None) -> dict[str, dict[str, Any]]:
    """`machine` and `versions` of this process, vLLM's environment and the source's commit where given."""
    versions: dict[str, Any] = dict(package_versions())
    if vllm_python is not None:
        versions |= vllm_versions(vllm_python.parent.parent)
    if source is not None and (commit := source_commit(source)):
        versions["mulle (git)"] = commit
    return {"machine": machine_facts(), "versions": versions}


def default_commands(run: RunData) -> list[str]:
    """Commands that repeat the run: the whole of it, then each stage that it recorded, by its deployment."""
    recorded = [str(command) for stage in run.stages for command in stage.report.get("commands") or ()]
    if recorded:
        return list(dict.fromkeys(recorded))
    stages = [stage.name for stage in run.stages if stage.name not in _PARENTS and stage.name.isidentifier()]
    return ["make demo", "prefect deployment run 'cycle/local' --watch"] + [
        f"prefect deployment run '{name}/local' --watch" for name in stages
    ]


def build_report(
    run_folder: Path,
    out_file: Path,
    lang: Lang = "ko",
    environment: Mapping[str, Mapping[str, Any]] | None = None,
    commands: Sequence[str] | None = None,
) -> ReportSummary:
    """Write the page of a run. Safe to repeat.

    `environment`: groups of facts, default `run_environment()` of this process; `commands`: default
    `default_commands`. Raises `InputError` where there is no such run, `SetupError` where no Korean font is found.
    """
    if lang not in ("ko", "en"):
        raise InputError(f"The report has no language {lang!r}: choose ko or en.")
    run = load_run(run_folder)
    page, status, verdict, questions = _render(
        run, lang, environment or run_environment(), commands or default_commands(run)
    )
    write_text_atomic(out_file, page)
    return ReportSummary(
        out_file=out_file,
        run_id=run.run_id,
        status=status,
        failed_stage=run.failed.name if run.failed else "",
        verdict=verdict,
        questions=questions,
        backends=[one.backend for one in run.evaluations],
        bytes=len(page.encode("utf-8")),
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _short(key: str, value: Any) -> str:
    """Hashes by their first 12 digits; they are in the evaluation file in full."""
    return f"{str(value)[:12]}..." if key.endswith("sha256") else str(value)


def _long_name(backend: str) -> str:
    return BACKENDS.get(backend, backend)


def _status(run: RunData) -> str:
    if run.failed is not None:
        return "failed"
    return "ok" if run.evaluations else "incomplete"


def _render(
    run: RunData, lang: Lang, environment: Mapping[str, Mapping[str, Any]], commands: Sequence[str]
) -> tuple[str, str, list[str], int]:
    t = texts(lang)
    rows = {one.backend: figure_rows(one, lang) for one in run.evaluations}
    found = cards(run.evaluations)
    verdict = verdict_sentences(run.evaluations, lang)
    verdict += gate_sentences(run, backend_name, t("gate_passed"), t("gate_refused"))
    status = _status(run)
    style, script = ((_TEMPLATES / name).read_text("utf-8").strip() for name in ("report.css", "report.js"))
    demo = demo_seconds(run)
    timed = [stage for stage in run.stages if stage.name not in _PARENTS]
    synthesis = run.stage("synthesize")
    jinja = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    view: dict[str, Any] = {
        "t": t,
        "lang": lang,
        "run": run,
        "status": status,
        "script": Markup(script),
        "script_hash": _hash(script),
        "verdict": verdict,
        "figures": rows,
        "n_by_backend": {one.backend: one.n for one in run.evaluations},
        "evaluation_facts": {one.backend: {k: _short(k, v) for k, v in one.facts.items()} for one in run.evaluations},
        "difference_chart": Markup(difference_chart(rows, lang)),
        "loss_chart": Markup(loss_chart(run.training, lang)),
        "time_chart": Markup(time_chart(timed, lang)),
        "training": [(k, v) for k, v in flatten(run.training) if not k.startswith("hparams.")],
        "cards": found,
        "languages": choices(card.lang for card in found),
        "kinds": choices(card.kind for card in found),
        "dataset": dataset_tables(run),
        "synthesis": flatten(synthesis.report) if synthesis else [],
        "timed": timed,
        "total_s": sum(stage.seconds for stage in timed),
        "demo": [(stage_label(name, lang), f"{seconds:,.1f}") for name, seconds in demo],
        "demo_s": sum(seconds for _, seconds in demo),
        "traffic": flatten(as_facts(run.demo.get("traffic"))),
        "environment": {str(group): as_facts(dict(facts)) for group, facts in environment.items()},
        "commands": commands,
        "backend_name": backend_name,
        "backend_long": _long_name,
        "stage_label": partial(stage_label, lang=lang),
        "duration": duration,
        "flatten": flatten,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    template = jinja.get_template("report.html.j2")
    glyphs = template.render(**view, style="", style_hash="")  # once without style: which characters the page needs
    source = f"font-display: block; src: url({embedded_font(glyphs)})"
    style = f'@font-face {{ font-family: "Mulle Korean"; {source}; }}\n{style}'
    page = template.render(**view, style=Markup(style), style_hash=_hash(style))
    return page, status, verdict, len(found)
