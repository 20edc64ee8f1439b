"""The plain-text table that ends a demo: before, after and difference on each backend, at most 100 columns wide.

Reads a run folder, writes nothing. Columns are aligned by display width (Hangul is two columns wide), with ASCII
signs only, since terminals disagree about the width of others.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from flows.steps.report_data import Evaluation, RunData, load_run
from flows.steps.report_figures import HEADLINE, backend_name, figure_rows
from flows.steps.report_labels import Lang, stage_label, texts

MAX_COLUMNS = 100


def display_width(text: str) -> int:
    """Columns that a terminal uses: wide and full-width characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def fit(text: str, columns: int, right: bool = False) -> str:
    """`text` in exactly `columns` columns: cut with `..` where it is longer, else padded."""
    if display_width(text) > columns:
        while text and display_width(text) > columns - 2:
            text = text[:-1]
        text += ".."
    space = " " * (columns - display_width(text))
    return space + text if right else text + space


def summary_table(run_folder: Path, lang: Lang = "ko") -> str:
    """The table as text without a final newline. Raises `InputError` where there is no such run."""
    run = load_run(run_folder)
    t = texts(lang)
    lines: list[str] = []
    if run.failed is not None:
        message = str(run.failed.report.get("message") or run.failed.report.get("error") or "")
        lines += [_line(f"{t('failed_at')} {stage_label(run.failed.name, lang)}"), _line(f"  {message}"), ""]
    if not run.evaluations:
        return "\n".join([*lines, _line(t("no_evaluation"))])
    for evaluation in run.evaluations:
        lines += [*_block(evaluation, run, lang), ""]
    return "\n".join(lines[:-1])


def _line(text: str) -> str:
    return fit(text.replace("\n", " ").rstrip(), MAX_COLUMNS).rstrip()


def _block(evaluation: Evaluation, run: RunData, lang: Lang) -> list[str]:
    t = texts(lang)
    shown = [row for row in figure_rows(evaluation, lang) if row.metric in HEADLINE]
    head = ["metric", "before", "after", "difference", "interval", "judgement"]
    body: list[Sequence[str]] = [[t(key) for key in head]]
    for row in shown:
        label = f"{row.label} ({t('lower_is_better')})" if row.lower_is_better else row.label
        interval = row.interval.replace("…", "..")
        body.append([label, row.before, row.after, row.difference, interval, t(row.judgement)])
    widths = [max(display_width(line[column]) for line in body) for column in range(len(head))]
    spare = MAX_COLUMNS - 2 * (len(head) - 1) - sum(widths[1:])
    widths[0] = min(widths[0], max(spare, 12))
    title = f"{backend_name(evaluation.backend)}  n={evaluation.n}  {t('run')} {run.run_id}"
    lines = [_line(title)]
    for number, cells in enumerate(body):
        parts = [fit(cell, widths[i], right=0 < i < 5) for i, cell in enumerate(cells)]
        lines.append(_line("  ".join(parts)))
        if number == 0:
            lines.append("-" * min(MAX_COLUMNS, sum(widths) + 2 * (len(widths) - 1)))
    return lines
