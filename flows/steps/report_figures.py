"""Evaluation figures as people read them: one row a metric, formatted, judged by its interval. Pure.

Invariant: `better` and `worse` are said only where the 95 % interval of the difference excludes zero, and the
direction in which a metric is good is the evaluation's own (`better`: up or down).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flows.steps.report_data import Evaluation, as_facts, number
from flows.steps.report_labels import METRICS, SHORT_BACKENDS, Lang, metric_label, texts

HEADLINE = (
    "tool_right", "no_tool_right", "over_refusal", "house_format", "url_right", "invented_url",
    "named_only_retrieved", "language_match", "retrieved_right", "chrf", "latency_ms",
)  # fmt: skip
MISSING = "-"


@dataclass(frozen=True, slots=True)
class FigureRow:
    """One metric on one backend. Texts are ready to print; numbers serve the chart (shares, oriented: up is good)."""

    metric: str
    label: str
    lower_is_better: bool
    before: str
    after: str
    before_interval: str
    after_interval: str
    difference: str
    interval: str
    judgement: str  # better | worse | same | unclear | neutral
    n: int | None
    unit: str
    improvement: tuple[float, float, float] | None  # value, lo, hi: positive is better


def _scale(unit: str, values: list[float]) -> tuple[float, str]:
    """Factor and format for a metric, from its unit and its size (chrF runs to 100, ROUGE-L to 1)."""
    if unit == "share":
        return 100.0, ".1f"
    if unit == "ms":
        return 1.0, ",.0f"
    return 1.0, ".3f" if max(map(abs, values), default=0.0) <= 1.5 else ".1f"


def _judge(better: str, lo: float | None, hi: float | None) -> str:
    if lo is None or hi is None or better not in ("up", "down"):
        return "neutral"
    if lo == hi == 0:
        return "same"
    if lo > 0 or hi < 0:
        return "better" if (lo > 0) == (better == "up") else "worse"
    return "unclear"


def figure_row(metric: str, facts: Mapping[str, Any], lang: Lang) -> FigureRow:
    """Format one metric of an evaluation; whatever is missing prints as `-`."""
    t = texts(lang)
    unit, better = str(facts.get("unit") or ""), str(facts.get("better") or "")
    base, tuned, diff = (as_facts(facts.get(key)) for key in ("base", "tuned", "diff"))
    before, after = number(base.get("value")), number(tuned.get("value"))
    value, lo, hi = (number(diff.get(key)) for key in ("value", "lo", "hi"))
    factor, spec = _scale(unit, [v for v in (before, after) if v is not None])
    suffix, diff_suffix = {"share": (" %", f" {t('points')}"), "ms": (" ms", " ms")}.get(unit, ("", ""))

    def plain(v: float | None) -> str:
        return MISSING if v is None else f"{v * factor:{spec}}{suffix}"

    def signed(v: float | None) -> str:
        if v is None:
            return MISSING
        shown = f"{v * factor:+{spec}}"
        return f"{v * factor * 0:{spec}}" if not any(char in "123456789" for char in shown) else shown

    def span(facts: Mapping[str, Any]) -> str:
        low, high = number(facts.get("lo")), number(facts.get("hi"))
        return "" if low is None or high is None else f"{low * factor:{spec}} … {high * factor:{spec}}"

    n = number(tuned.get("n"))
    sign = -1.0 if better == "down" else 1.0
    oriented = None
    if value is not None and lo is not None and hi is not None:
        low, high = sorted((sign * lo, sign * hi))
        oriented = (sign * value, low, high)
    return FigureRow(
        metric=metric,
        label=metric_label(metric, lang),
        lower_is_better=better == "down",
        before=plain(before),
        after=plain(after),
        before_interval=span(base),
        after_interval=span(tuned),
        difference=MISSING if value is None else signed(value) + diff_suffix,
        interval=MISSING if lo is None or hi is None else f"{signed(lo)} … {signed(hi)}",
        judgement=_judge(better, lo, hi),
        n=int(n) if n is not None else None,
        unit=unit,
        improvement=oriented,
    )


def figure_rows(evaluation: Evaluation, lang: Lang) -> list[FigureRow]:
    """All metrics, the ones that people ask for first, unknown ones last."""
    known = [name for name in METRICS if name in evaluation.metrics]
    rest = sorted(name for name in evaluation.metrics if name not in METRICS)
    return [figure_row(name, evaluation.metrics[name], lang) for name in (*known, *rest)]


def backend_name(backend: str) -> str:
    """Short display name of a backend."""
    return SHORT_BACKENDS.get(backend, backend)


def verdict_sentences(evaluations: list[Evaluation], lang: Lang) -> list[str]:
    """What the figures say, in words: the right tool first, then what got better, worse, or stayed open."""
    sentences: list[str] = []
    t = texts(lang)
    for evaluation in evaluations:
        rows = [row for row in figure_rows(evaluation, lang) if row.metric in HEADLINE]
        main = next((row for row in rows if row.metric == "tool_right"), None)
        name, n = backend_name(evaluation.backend), evaluation.n
        if main is not None and main.improvement is not None:
            sentences.append(_main_sentence(main, name, n, lang))
        groups = {
            judgement: [row.label for row in rows if row.judgement == judgement and row.metric != "tool_right"]
            for judgement in ("better", "worse", "unclear")
        }
        told = [f"{t(judgement)}: {', '.join(labels)}" for judgement, labels in groups.items() if labels]
        if told:
            sentences.append(f"{name} · {'; '.join(told)}.")
    return sentences


def _main_sentence(row: FigureRow, name: str, n: int, lang: Lang) -> str:
    if lang == "ko":
        ending = {
            "better": "더 자주 맞는 도구를 추천합니다",
            "worse": "맞는 도구를 덜 추천합니다",
            "same": "맞는 도구를 똑같이 추천합니다",
        }.get(row.judgement, "맞는 도구를 추천하는 비율이 달라졌다고 말할 수 없습니다")
        return (
            f"{name}: 파인튜닝한 모델은 {ending}. 시험 질문 {n}개에서 {row.before} → {row.after} "
            f"(차이 {row.difference}, 95 % 구간 {row.interval})."
        )
    ending = {
        "better": "recommends the right tool more often",
        "worse": "recommends the right tool less often",
        "same": "recommends the right tool equally often",
    }.get(row.judgement, "cannot be told from the base model in how often it recommends the right tool")
    return (
        f"{name}: the fine-tuned model {ending}: {row.before} → {row.after} of {n} held-out questions "
        f"(difference {row.difference}, 95 % interval {row.interval})."
    )
