"""How far reviewers agree: on the tools by Krippendorff's alpha and Cohen's kappa, on the words by chrF.

Reads the table reviews. Each reviewer's newest review of a question counts. Alpha is that for nominal data, with
reviewers missing where they did not review (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"): 1 is
full agreement, 0 is what chance gives. Kappa is scikit-learn's, for each pair of reviewers with enough questions in
common. The value of a review is its set of tools, "none suits" among them. chrF (0..100) compares the answers of those
pairs that name the same tools, in both directions.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import mean, median
from typing import Any

from flows.steps.stage import StageContext
from flows.steps.text_scores import chrf
from lake.errors import DatasetError
from lake.files import write_json_atomic
from lake.rules.golden import golden_of, newest_of_each_reviewer, tool_set
from lake.rules.shingles import question_key
from lake.tables import scan

_NESTED = ("answer_chrf", "pairs", "conflicting_questions")
MIN_SHARED = 5  # questions that two reviewers need in common for a kappa of theirs
Row = Mapping[str, Any]


def krippendorff_alpha(units: Iterable[Sequence[object]]) -> float | None:
    """Alpha for nominal values: one sequence a unit, with the value of each rater who rated it.

    None where it is not defined: no unit has two values, or there is only one value at all.
    """
    coincidences: Counter[tuple[object, object]] = Counter()
    pairs: dict[tuple[object, object], float] = defaultdict(float)
    totals: dict[object, float] = defaultdict(float)
    for unit in units:
        if len(unit) < 2:
            continue
        coincidences.clear()
        for place, one in enumerate(unit):
            coincidences.update((one, other) for at, other in enumerate(unit) if at != place)
        for pair, count in coincidences.items():
            pairs[pair] += count / (len(unit) - 1)
            totals[pair[0]] += count / (len(unit) - 1)
    n = sum(totals.values())
    expected = n * n - sum(total * total for total in totals.values())
    if expected <= 0:
        return None
    observed = sum(count for (one, other), count in pairs.items() if one != other)
    return 1.0 - (n - 1.0) * observed / expected


def cohen_kappa(left: Sequence[str], right: Sequence[str]) -> float | None:
    """Kappa of two raters; None where both gave one and the same value throughout, which leaves nothing to chance."""
    from sklearn.metrics import cohen_kappa_score

    if len(set(left) | set(right)) < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(cohen_kappa_score(left, right))
    return None if value != value else value


def agreement(reviews: Iterable[Row]) -> dict[str, Any]:
    """The figures of a set of reviews: review_id, timestamp, question, answer, reviewer, tools."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for review in reviews:
        groups[question_key(review["question"])].append(review)
    units = {key: newest_of_each_reviewer(rows) for key, rows in groups.items()}
    several = {key: rows for key, rows in sorted(units.items()) if len(rows) > 1}
    outcomes = [golden for rows in several.values() if (golden := golden_of(rows)) is not None]
    shared: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    likeness: list[float] = []
    for rows in several.values():
        for one, other in combinations(sorted(rows, key=lambda row: row["reviewer"] or ""), 2):
            names = (one["reviewer"] or "", other["reviewer"] or "")
            shared[names].append((" ".join(tool_set(one)), " ".join(tool_set(other))))
            if tool_set(one) == tool_set(other):
                likeness.append((chrf(one["answer"], other["answer"]) + chrf(other["answer"], one["answer"])) / 2)
    couples = [
        {
            "reviewers": list(names),
            "questions": len(values),
            "same_tools": sum(left == right for left, right in values) / len(values),
            "cohen_kappa": cohen_kappa(*map(list, zip(*values, strict=True))) if len(values) >= MIN_SHARED else None,
        }
        for names, values in sorted(shared.items())
    ]
    return {
        "questions": len(units),
        "reviewers": len({row["reviewer"] or "" for rows in units.values() for row in rows}),
        "questions_with_several": len(several),
        "unanimous": sum(golden.dissent == 0 for golden in outcomes),
        "majority": sum(golden.dissent > 0 and not golden.conflict for golden in outcomes),
        "conflicts": sum(golden.conflict for golden in outcomes),
        "krippendorff_alpha": krippendorff_alpha([tool_set(row) for row in rows] for rows in several.values()),
        "answer_chrf": {"pairs": len(likeness), "mean": mean(likeness), "median": median(likeness)}
        if likeness
        else None,
        "pairs": couples,
        "conflicting_questions": [
            sorted(rows, key=lambda row: row["review_id"])[0]["question"]
            for rows, golden in zip(several.values(), outcomes, strict=True)
            if golden.conflict
        ][:100],
    }


def table(report: Mapping[str, Any]) -> str:
    """The report for people: totals, then a line a pair of reviewers."""

    def shown(value: object) -> str:
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = [f"{name.replace('_', ' ')}: {shown(report[name])}" for name in report if name not in _NESTED]
    if report["answer_chrf"]:
        lines.append(f"answer chrF where the tools are the same: {shown(report['answer_chrf']['mean'])} (mean)")
    lines += ["", "| reviewers | questions | same tools | Cohen's kappa |", "| --- | --- | --- | --- |"]
    for one in report["pairs"]:
        cells = ("questions", "same_tools", "cohen_kappa")
        lines.append(f"| {' / '.join(one['reviewers'])} | {' | '.join(shown(one[cell]) for cell in cells)} |")
    return "\n".join(lines)


def run_agreement(stage: StageContext, out: str | None) -> dict[str, Any]:
    """Measure, log the table, write the JSON to `out` where it is given. Raises `DatasetError` without reviews."""
    columns = ("review_id", "timestamp", "question", "answer", "reviewer", "tools")
    reviews = scan(stage.lake.lake_dir, "reviews").select(columns).collect().to_dicts()
    if not reviews:
        raise DatasetError("There is no review in the lake: import some (`python -m flows.reviews import FILE`).")
    report = agreement(reviews)
    stage.log(f"\n{table(report)}")
    if out:
        write_json_atomic(Path(out), report)
    return report
