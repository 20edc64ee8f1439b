"""What an answer is worth, per item and in all, with paired bootstrap intervals. Pure.

Invariant: both arms are scored by the same code on the same items; an item that a metric does not apply to is
left out of that metric for both arms (its n says so); an error is an empty answer, never a missing one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.steps.named_tools import Reading, ToolNames, normal_url
from flows.steps.text_scores import chrf, rouge_l, token_f1
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import EvalCase
from lake.text import detect_lang, nfc

RESAMPLES = 2000  # the interval's ends are then stable to about a tenth of their width
Scores = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class MetricKind:
    """How a metric is to be read; `better` is empty where neither direction is."""

    unit: str
    better: str


METRICS: dict[str, MetricKind] = {
    "house_format": MetricKind("share", "up"),
    "tool_right": MetricKind("share", "up"),
    "tool_precision": MetricKind("share", "up"),
    "tool_recall": MetricKind("share", "up"),
    "tool_f1": MetricKind("share", "up"),
    "named_only_retrieved": MetricKind("share", "up"),
    "url_right": MetricKind("share", "up"),
    "invented_url": MetricKind("share", "down"),
    "language_match": MetricKind("share", "up"),
    "no_tool_right": MetricKind("share", "up"),
    "over_refusal": MetricKind("share", "down"),
    "retrieved_right": MetricKind("share", "up"),
    "chrf": MetricKind("score", "up"),
    "rouge_l": MetricKind("score", "up"),
    "token_f1": MetricKind("score", "up"),
    "length_chars": MetricKind("chars", ""),
    "latency_ms": MetricKind("ms", "down"),
}


def score_answer(
    case: EvalCase,
    retrieved: Sequence[RetrievedItem],
    answer: str,
    latency_ms: float | None,
    names: ToolNames,
) -> Scores:
    """All metrics of one answer; None where a metric does not apply to the case.

    A tool is right where it is among `tools` or `also`; on a question that no tool answers only a refusal in
    words is right (silence or noise is not). What counts as the recommendation is the name line of the house
    style, else the first tool named; precision and recall look at every tool named.
    """
    reading = names.read(answer)
    right = {*case.tools, *case.also}
    in_list = {item.id for item in retrieved}
    given_urls = {normal_url(item.url) for item in retrieved if item.url}
    precision, recall = _precision_recall(reading, right)
    wants_tool = bool(right)
    hit = reading.recommended in right if wants_tool else reading.refused
    stray = reading.unknown_name or any(one not in in_list for one in reading.named)
    return {
        "house_format": float(reading.house),
        "tool_right": float(hit),
        "tool_precision": precision,
        "tool_recall": recall,
        "tool_f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "named_only_retrieved": float(not stray),
        "url_right": _url_right(reading, names, retrieved) if wants_tool else None,
        "invented_url": float(any(url not in given_urls for url in reading.urls)),
        "language_match": float(_language_matches(answer, case.lang)),
        "no_tool_right": None if wants_tool else float(reading.refused),
        "over_refusal": float(reading.refused) if wants_tool else None,
        "retrieved_right": float(bool(right & in_list)) if wants_tool else None,
        "chrf": chrf(answer, case.golden),
        "rouge_l": rouge_l(answer, case.golden),
        "token_f1": token_f1(answer, case.golden),
        "length_chars": float(len(nfc(answer))),
        "latency_ms": latency_ms,
    }


def _precision_recall(reading: Reading, right: set[str]) -> tuple[float, float]:
    """Share of the named tools that are right; whether a right one was named (any one of them suffices)."""
    if not right:
        return float(reading.refused), float(reading.refused)
    count = len(reading.named) + reading.unknown_name
    hits = sum(one in right for one in reading.named)
    return (hits / count if count else 0.0), float(hits > 0)


def _url_right(reading: Reading, names: ToolNames, retrieved: Sequence[RetrievedItem]) -> float:
    """Whether the recommended tool's own address stands in the answer; the retrieved one goes before the
    catalogue's.
    """
    if reading.recommended is None:
        return 0.0
    own = {item.id: normal_url(item.url) for item in retrieved if item.url}
    want = own.get(reading.recommended) or names.urls.get(reading.recommended)
    return float(want is not None and want in reading.urls)


def _language_matches(answer: str, lang: str) -> bool:
    """An empty answer, or one of addresses alone, is in no language."""
    words = " ".join(word for word in nfc(answer).split() if "://" not in word)
    return any(char.isalpha() for char in words) and detect_lang(words) == lang


def aggregate(base: Sequence[Scores], tuned: Sequence[Scores], seed: int = 17) -> dict[str, dict[str, Any]]:
    """Means with 95 % intervals for both arms and for their paired difference (tuned - base).

    `base[i]` and `tuned[i]` belong to the same item; each resample draws items, so the pairing is kept.
    """
    if len(base) != len(tuned):
        raise ValueError("Both arms must have answered the same items.")
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(base), size=(RESAMPLES, len(base))) if base else np.zeros((0, 0), int)
    return {
        name: {
            "unit": kind.unit,
            "better": kind.better,
            **_paired([one.get(name) for one in base], [one.get(name) for one in tuned], draws),
        }
        for name, kind in METRICS.items()
    }


def _paired(base: Sequence[float | None], tuned: Sequence[float | None], draws: np.ndarray[Any, Any]) -> dict[str, Any]:
    both = [a is not None and b is not None for a, b in zip(base, tuned, strict=True)]
    left = np.array([v if v is not None and ok else np.nan for v, ok in zip(base, both, strict=True)], float)
    right = np.array([v if v is not None and ok else np.nan for v, ok in zip(tuned, both, strict=True)], float)
    n = int(np.sum(both))
    return {
        "base": {**_interval(left, draws), "n": n},
        "tuned": {**_interval(right, draws), "n": n},
        "diff": _interval(right - left, draws),
    }


def _interval(values: np.ndarray[Any, Any], draws: np.ndarray[Any, Any]) -> dict[str, float | None]:
    """Mean, and the 2.5 and 97.5 percentiles of the resampled means; all None where nothing applies."""
    there = ~np.isnan(values)
    if not there.any():
        return {"value": None, "lo": None, "hi": None}
    filled = np.where(there, values, 0.0)
    counts = there[draws].sum(axis=1)
    means = filled[draws].sum(axis=1)[counts > 0] / counts[counts > 0]
    lo, hi = np.percentile(means, [2.5, 97.5])
    return {
        "value": round(float(values[there].mean()), 6),
        "lo": round(float(lo), 6),
        "hi": round(float(hi), 6),
    }


def flips(items: Sequence[Mapping[str, Any]], metric: str = "tool_right") -> dict[str, list[str]]:
    """Ids of the items whose `metric` the tuned model won or lost."""
    won: list[str] = []
    lost: list[str] = []
    for item in items:
        before, after = item["base"]["scores"].get(metric), item["tuned"]["scores"].get(metric)
        if before is not None and after is not None and before != after:
            (won if after > before else lost).append(str(item["id"]))
    return {"won": won, "lost": lost}
