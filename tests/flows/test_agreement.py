"""Agreement of reviewers: published examples of alpha and kappa, and what the report says of a lake."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.settings import FlowSettings
from flows.steps.agreement import agreement, cohen_kappa, krippendorff_alpha, run_agreement, table
from flows.steps.stage import StageContext
from lake.errors import DatasetError
from lake.settings import LakeSettings
from lake.tables import append
from serving.settings import ServingSettings
from tests.lake.review_kit import QUESTIONS, review

# Krippendorff 2011, example C: four observers, twelve units, five nominal values, data missing.
OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def test_alpha_of_the_published_examples() -> None:
    units = [[row[place] for row in OBSERVERS if row[place] != "."] for place in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)
    # Example B: two observers, twelve units (named a to e), no data missing.
    pairs = zip("aabbdcccedda", "babbbccceddd", strict=True)
    assert krippendorff_alpha(pairs) == pytest.approx(0.692, abs=5e-4)


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha([("a", "a"), ("b", "b")]) == 1.0
    assert krippendorff_alpha([("a", "b"), ("b", "a")]) == pytest.approx(-0.5)
    assert krippendorff_alpha([("a", "a"), ("a", "a")]) is None
    assert krippendorff_alpha([("a",), ("b",)]) is None and krippendorff_alpha([]) is None


def test_kappa_of_a_textbook_table() -> None:
    # 50 grants, 20 both yes, 15 both no, 5 and 10 split: observed 0.7, expected 0.5.
    left, right = "y" * 25 + "n" * 25, "y" * 20 + "n" * 5 + "y" * 10 + "n" * 15
    assert cohen_kappa(list(left), list(right)) == pytest.approx(0.4)
    assert cohen_kappa(["y", "y"], ["y", "y"]) is None


def reviews() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for n, question in enumerate(QUESTIONS):
        rows.append(review(10 * n, question, "kim"))
        rows.append(review(10 * n + 1, question + "?", "lee", tools=("zoom",) if n == 0 else ("slack",)))
    rows.append(review(100, QUESTIONS[1], "han", tools=("zoom",)))
    rows.append(review(101, QUESTIONS[2], "lee", tools=("zoom",)))
    rows.append(review(102, QUESTIONS[2], "lee"))  # the newest counts
    rows.append(review(103, QUESTIONS[3], "han", answer="아주 다른 말"))
    rows.append(review(104, "혼자 본 질문", "kim"))
    return rows


def test_the_report_counts_every_question_once() -> None:
    report = agreement(reviews())
    assert (report["questions"], report["questions_with_several"], report["reviewers"]) == (7, 6, 3)
    assert (report["unanimous"], report["majority"], report["conflicts"]) == (4, 1, 1)
    assert report["unanimous"] + report["majority"] + report["conflicts"] == report["questions_with_several"]
    assert [one.rstrip("?") for one in report["conflicting_questions"]] == [QUESTIONS[0]]
    couples = {tuple(one["reviewers"]): one for one in report["pairs"]}
    assert couples["kim", "lee"]["same_tools"] == pytest.approx(5 / 6) and couples["kim", "lee"]["questions"] == 6
    assert couples["kim", "lee"]["cohen_kappa"] == 0.0  # as often as chance: kim always says slack
    assert couples["han", "kim"]["cohen_kappa"] is None  # two questions are too few
    words = report["answer_chrf"]
    assert words["pairs"] == 7 and words["median"] == 100.0 and words["mean"] < 100.0
    assert -1 <= report["krippendorff_alpha"] <= 1
    assert "| kim / lee | 6 | 0.833 | 0.000 |" in table(report)
    assert agreement(reversed(reviews())) == report


def test_the_step_reads_the_lake_and_writes_json(tmp_path: Path) -> None:
    said: list[str] = []
    lake = LakeSettings(data_dir=tmp_path)
    stage = StageContext("run", "review-agreement", lake, ServingSettings(), FlowSettings(), said.append)
    with pytest.raises(DatasetError, match="no review"):
        run_agreement(stage, None)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    append(
        lake.lake_dir, "reviews", [row | {"timestamp": start + timedelta(seconds=n)} for n, row in enumerate(reviews())]
    )
    report = run_agreement(stage, str(tmp_path / "agreement.json"))
    assert orjson.loads((tmp_path / "agreement.json").read_bytes()) == report
    assert "krippendorff alpha" in said[0] and "conflicts: 1" in said[0]
    alone = agreement([review(1, QUESTIONS[0])])
    assert alone["answer_chrf"] is None and alone["krippendorff_alpha"] is None and "-" in table(alone)
