"""The ledger of an ingest run for people and for Prometheus: a Markdown table and a text file for a node exporter.

Writes `data/run/ingest.prom` (textfile-collector format, whole or not at all). Invariant: both show the figures of the
report and nothing else, and say so where the books do not close.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lake.files import write_text_atomic

_HELP = {
    "frames": "Journal frames on disk by what became of them, over every segment.",
    "dropped_frames": "Journal frames dropped, by reason.",
    "ledger_closes": "1 where journalled = ingested + quarantined + dropped + pending, for every worker and the run.",
    "duplicated_rows": "Rows that stand in a table twice.",
    "rows": "Rows of the table.",
    "rows_added": "Rows that the last run added to the table.",
    "masked_spans": "Spans of personal data that the last run masked, by type.",
    "quarantine_reasons": "Ranges that the last run put into quarantine, by reason.",
    "oldest_pending_seconds": "Age of the oldest request that waits for its second half.",
    "duration_seconds": "How long the last run took.",
    "last_run_timestamp_seconds": "When the last run ended, Unix time.",
}
_FATES = ("journalled", "ingested", "quarantined", "dropped", "pending")


def ledger_markdown(report: Mapping[str, Any], closes: bool) -> str:
    """Both ledgers as a table, then what was dropped and put into quarantine, by reason."""
    run, total = report["run"], report["total"]
    lines = [
        f"## The ledger {'closes' if closes else 'DOES NOT CLOSE'}",
        "",
        "journalled = ingested + quarantined + dropped + pending, in frames of the journal",
        "",
        "| | this run | all segments |",
        "| --- | ---: | ---: |",
    ]
    lines += [f"| {fate} | {_count(run[fate]):,} | {_count(total[fate]):,} |" for fate in _FATES]
    for title, counts in (
        ("Dropped, all segments", total["dropped"]),
        ("Quarantine, this run", report["quarantine_reasons"]),
        ("Masked, this run", report["masked"]),
        ("Rows added", report["rows_added"]),
        ("Unknown fields, this run", report["ignored_fields"]),
    ):
        if counts:
            lines += ["", f"| {title} | |", "| --- | ---: |"]
            lines += [f"| {str(name).replace('|', '/')[:200]} | {count:,} |" for name, count in sorted(counts.items())]
    if report["shrunk_workers"]:
        lines += ["", f"Shorter than what was ingested from them: {', '.join(report['shrunk_workers'])}"]
    return "\n".join(lines)


def _count(value: int | Mapping[str, int]) -> int:
    return value if isinstance(value, int) else sum(value.values())


def write_metrics(path: Path, report: Mapping[str, Any], closes: bool, now_s: float) -> None:
    """The report as gauges named `mulle_ingest_*`. `now_s`: Unix time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for name, samples in _samples(report, closes, now_s):
        lines += [f"# HELP mulle_ingest_{name} {_HELP[name]}", f"# TYPE mulle_ingest_{name} gauge"]
        lines += [f"mulle_ingest_{name}{labels} {value!r}" for labels, value in samples]
    write_text_atomic(path, "\n".join(lines) + "\n")


def _samples(report: Mapping[str, Any], closes: bool, now_s: float) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    total = report["total"]
    yield "frames", [(_label("state", fate), _count(total[fate])) for fate in _FATES]
    for name, label, counts in (
        ("dropped_frames", "reason", total["dropped"]),
        ("rows", "table", report["rows"]),
        ("rows_added", "table", report["rows_added"]),
        ("masked_spans", "type", report["masked"]),
        ("quarantine_reasons", "reason", report["quarantine_reasons"]),
    ):
        if counts:
            yield name, [(_label(label, key), float(count)) for key, count in sorted(counts.items())]
    yield "ledger_closes", [("", float(closes))]
    yield "duplicated_rows", [("", float(total["duplicated_rows"]))]
    yield "oldest_pending_seconds", [("", report["oldest_pending_s"] or 0.0)]
    yield "duration_seconds", [("", report["seconds"])]
    yield "last_run_timestamp_seconds", [("", now_s)]


def _label(name: str, value: str) -> str:
    safe = value[:200].replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'{{{name}="{safe}"}}'
