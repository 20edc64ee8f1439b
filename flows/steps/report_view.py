"""From a run's data to what the page shows: cards of answers, dataset tables, flattened records. Pure.

Invariant: everything here is plain text or numbers; the template escapes it. Nothing is cut without saying so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from flows.steps.report_data import Evaluation, Facts, RunData, as_facts, as_rows, number

MARKS = (("tool_right", True), ("house_format", True), ("invented_url", False))  # metric, value that is good
MAX_DETAIL_ROWS = 200
_DETAIL_CHARS = 300
# Shown elsewhere on the page, or too long for a table of single values.
_SKIPPED_DETAILS = ("history", "eval_history", "rejects", "items", "samples", "drops", "dropped", "metrics", "training")


@dataclass(frozen=True, slots=True)
class Mark:
    """A yes or no of one answer; `good` is None where it was not scored."""

    key: str
    good: bool | None


@dataclass(frozen=True, slots=True)
class Answer:
    """One arm's answer to one question on one backend."""

    text: str
    marks: list[Mark]
    latency_ms: float | None
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Both arms on one backend; `change`: improved, worsened, mixed, or empty where all marks stayed."""

    backend: str
    base: Answer
    tuned: Answer
    change: str


@dataclass(slots=True)
class Card:
    """One held-out question with what was retrieved for it and the answers on each backend."""

    id: str
    question: str
    lang: str
    kind: str
    golden: str
    right: set[str]
    retrieved: list[Facts]
    pairs: list[Pair] = field(default_factory=list[Pair])


def _answer(arm: Any) -> Answer:
    facts = as_facts(arm)
    scores = as_facts(facts.get("scores"))
    marks: list[Mark] = []
    for key, wanted in MARKS:
        value = scores.get(key)
        scored = isinstance(value, bool | int | float)
        marks.append(Mark(key, (bool(value) == wanted) if scored else None))
    return Answer(
        text=str(facts.get("answer") or ""),
        marks=marks,
        latency_ms=number(facts.get("latency_ms")),
        finish_reason=str(facts.get("finish_reason") or ""),
    )


def _change(base: Answer, tuned: Answer) -> str:
    steps = {
        int(after.good) - int(before.good)
        for before, after in zip(base.marks, tuned.marks, strict=True)
        if before.good is not None and after.good is not None
    } - {0}
    return {frozenset({1}): "improved", frozenset({-1}): "worsened", frozenset({1, -1}): "mixed"}.get(
        frozenset(steps), ""
    )


def _strings(value: Any) -> list[str]:
    return [str(entry) for entry in cast("list[Any]", value)] if isinstance(value, list) else []


def cards(evaluations: Iterable[Evaluation]) -> list[Card]:
    """One card a question, in the order of the first evaluation that holds it."""
    found: dict[str, Card] = {}
    for evaluation in evaluations:
        for number_, item in enumerate(evaluation.items):
            identifier = str(item.get("id") or f"#{number_ + 1}")
            if identifier not in found:
                found[identifier] = Card(
                    id=identifier,
                    question=str(item.get("question") or ""),
                    lang=str(item.get("lang") or ""),
                    kind=str(item.get("kind") or ""),
                    golden=str(item.get("golden") or ""),
                    right={*_strings(item.get("tools")), *_strings(item.get("also"))},
                    retrieved=as_rows(item.get("retrieved")),
                )
            base, tuned = _answer(item.get("base")), _answer(item.get("tuned"))
            found[identifier].pairs.append(Pair(evaluation.backend, base, tuned, _change(base, tuned)))
    return list(found.values())


def choices(values: Iterable[str]) -> list[str]:
    """Distinct non-empty values in order, for a filter."""
    return sorted({value for value in values if value})


def gate_sentences(run: RunData, name: Callable[[str], str], passed: str, refused: str) -> list[str]:
    """What the gate decided on each backend, with the checks that failed."""
    sentences: list[str] = []
    for backend, gate in run.gates:
        failed = [check for check in as_rows(gate.get("checks")) if check.get("passed") is not True]
        shown = ", ".join(
            f"{check.get('name')} {_single(check.get('value'))} ({check.get('sign')} {_single(check.get('limit'))})"
            for check in failed
        )
        verdict = passed if gate.get("passed") is True else refused
        sentences.append(f"{name(backend)}: {verdict}{f' ({shown})' if shown else ''}.")
    return sentences


def demo_seconds(run: RunData) -> list[tuple[str, float]]:
    """The demo's own stages in their order with seconds; the wheel's stages lie inside of them."""
    pairs = ((str(key), number(value)) for key, value in as_facts(run.demo.get("seconds")).items())
    return [(key, value) for key, value in pairs if value is not None]


def dataset_tables(run: RunData) -> dict[str, list[tuple[str, str]]]:
    """`sizes`, `labels` and `languages` as rows of two texts; a missing one is empty."""
    facts = run.dataset
    counts = as_facts(facts.get("counts"))
    labels = as_facts(facts.get("label_sources") or facts.get("by_label_source"))
    total = sum(int(number(count) or 0) for count in labels.values())
    languages = as_facts(facts.get("languages") or facts.get("by_language"))
    shares = all((number(value) or 0.0) <= 1 for value in languages.values())
    sizes = [(str(key), f"{int(number(value) or 0):,}") for key, value in counts.items()]
    if facts.get("version"):
        sizes.insert(0, ("version", str(facts["version"])))
    return {
        "sizes": sizes,
        "labels": [
            (str(key), f"{int(number(value) or 0):,} ({100 * (number(value) or 0) / max(total, 1):.1f} %)")
            for key, value in labels.items()
        ],
        "languages": [
            (str(key), f"{100 * (number(value) or 0):.1f} %" if shares else f"{int(number(value) or 0):,}")
            for key, value in languages.items()
        ],
    }


def flatten(report: Mapping[str, Any], prefix: str = "", depth: int = 0) -> list[tuple[str, str]]:
    """Single values of a report as (dotted key, text); lists are shown by their length."""
    rows: list[tuple[str, str]] = []
    for key, value in report.items():
        name = f"{prefix}{key}"
        if key in _SKIPPED_DETAILS and isinstance(value, list | dict):
            continue
        if isinstance(value, dict):
            inner = cast("Facts", value)
            rows += flatten(inner, f"{name}.", depth + 1) if depth < 4 else [(name, f"{{{len(inner)}}}")]
        elif isinstance(value, list):
            entries = cast("list[Any]", value)
            simple = all(isinstance(entry, str | int | float) for entry in entries) and len(entries) <= 8
            rows.append((name, ", ".join(map(str, entries)) if simple else f"[{len(entries)}]"))
        else:
            text = _single(value)
            rows.append((name, text if len(text) <= _DETAIL_CHARS else text[:_DETAIL_CHARS] + " [...]"))
    if depth == 0 and len(rows) > MAX_DETAIL_ROWS:
        return [*rows[:MAX_DETAIL_ROWS], ("...", f"+{len(rows) - MAX_DETAIL_ROWS}")]
    return rows


def _single(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}"
    return str(value)


def duration(seconds: float) -> str:
    """`12.3 s` below a minute, else `4 min 05 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
