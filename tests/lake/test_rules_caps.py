"""Limits over all rows: each drops what it says, for its reason, whatever the order of the rows."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import polars as pl
import pytest

from lake.rules.caps import ROW, Limits, apply_limits

OFF = {"own_share": 1.0, "synthetic_share": 1.0, "key_rows": 10_000, "key_share": 1.0, "cluster_cap": 10_000}


def row(n: int, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "row_id": f"row-{n:04}", "source_id": f"q{n}", "question": f"질문 {n}", "cluster_id": f"c{n}",
        "label_source": "correction", "keys": [], "answer_key": f"a{n}", "generation": 0,
        "draw": (n * 0.6180339) % 1, "lang": "ko", "category": "협업", "no_tool": False,
    }  # fmt: skip
    return made | changes


def run(rows: list[dict[str, Any]], **limits: Any) -> tuple[pl.DataFrame, Counter[str]]:
    frame = pl.DataFrame(rows, schema=ROW)
    left, rejects = apply_limits(frame, Limits(**{**OFF, **limits}))
    assert len(left) + len(rejects) == len(rows)
    assert sorted(left["row_id"]) == left["row_id"].to_list()
    mixed, _ = apply_limits(frame.sample(fraction=1.0, shuffle=True, seed=3), Limits(**{**OFF, **limits}))
    assert mixed["row_id"].to_list() == left["row_id"].to_list()
    return left, Counter(rejects["reason"].to_list())


def test_nothing_is_dropped_where_every_limit_is_off() -> None:
    left, reasons = run([row(n, label_source="served", generation=1) for n in range(9)])
    assert (len(left), reasons) == (9, Counter())
    assert len(apply_limits(pl.DataFrame(schema=ROW), Limits())[0]) == 0


def test_own_answers_are_capped_as_a_share_of_what_is_left() -> None:
    rows = [row(n) for n in range(30)]
    rows += [row(100 + n, label_source="positive_feedback", generation=1) for n in range(90)]
    rows += [row(300 + n, label_source="positive_feedback", generation=0) for n in range(5)]  # another company's model
    left, reasons = run(rows, own_share=0.3)
    assert reasons == {"own_share": 75}
    own = left.filter(pl.col("generation") > 0).height
    assert own == 15
    assert own <= 0.3 * left.height < own + 1


def test_deep_generations_go() -> None:
    left, reasons = run([row(n, label_source="served", generation=n) for n in range(6)], max_generation=2)
    assert reasons == {"max_generation": 3}
    assert left["generation"].to_list() == [0, 1, 2]


def test_a_key_has_at_most_so_many_rows_and_such_a_share() -> None:
    rows = [row(n, keys=["evil"]) for n in range(50)] + [row(100 + n, keys=[f"k{n}"]) for n in range(3000)]
    assert run(rows, key_rows=20, key_share=0.01)[1] == {"key_cap": 30}
    few = [row(n, keys=["evil"]) for n in range(50)] + [row(100 + n, keys=[f"k{n}"]) for n in range(400)]
    left, reasons = run(few, key_rows=20, key_share=0.01)
    assert reasons == {"key_cap": 46}  # four of 404 are at most one in a hundred
    assert left.filter(pl.col("keys").list.contains("evil")).height <= 0.01 * left.height
    assert run([row(n, keys=["evil"]) for n in range(9)], key_share=0.01)[1] == {"key_cap": 8}  # always one


def test_a_key_can_hide_behind_neither_questions_nor_feedback() -> None:
    rows = [row(n, keys=["evil", f"k{n}"]) for n in range(30)] + [row(100 + n, keys=["evil"]) for n in range(30)]
    left, _ = run(rows, key_rows=20)
    assert left.filter(pl.col("keys").list.contains("evil")).height <= 20
    trusted = [row(n, keys=["k"], label_source="golden") for n in range(60)]
    assert run(trusted, key_rows=20)[1] == Counter()


def test_one_answer_a_cluster_however_many_keys_say_it() -> None:
    rows = [row(n, cluster_id="c", answer_key="same", keys=[f"k{n}"]) for n in range(10)]
    rows += [row(20 + n, cluster_id="c", answer_key="same", label_source="golden") for n in range(3)]
    rows += [row(30, cluster_id="other", answer_key="same")]
    left, reasons = run(rows)
    assert reasons == {"duplicate_in_cluster": 10}
    assert Counter(left["label_source"].to_list()) == {"golden": 3, "correction": 1}


def test_a_cluster_keeps_what_people_wrote() -> None:
    rows = [row(n, cluster_id="c", label_source="served") for n in range(5)]
    rows += [row(10 + n, cluster_id="c", label_source="golden") for n in range(3)]
    left, reasons = run(rows, cluster_cap=4)
    assert reasons == {"cluster_cap": 4}
    assert Counter(left["label_source"].to_list()) == {"golden": 3, "served": 1}


@pytest.mark.parametrize(
    ("limits", "reason", "part"),
    [
        ({"language_shares": {"en": 0.2}}, "language_share", pl.col("lang") == "en"),
        ({"no_tool_share": 0.2}, "no_tool_share", pl.col("no_tool")),
        ({"synthetic_share": 0.2}, "synthetic_share", pl.col("label_source") == "synthetic"),
    ],
)
def test_shares_hold_in_what_is_left(limits: dict[str, Any], reason: str, part: pl.Expr) -> None:
    rows = [row(n) for n in range(40)]
    rows += [row(100 + n, lang="en", no_tool=True, category="", label_source="synthetic") for n in range(40)]
    left, reasons = run(rows, **limits)
    assert reasons == {reason: 30}
    assert left.filter(part).height == 10


def test_a_category_has_its_share_or_all_are_equal() -> None:
    sizes = {"a": 60, "b": 30, "c": 10}
    rows = [
        row(100 * place + n, category=name) for place, (name, size) in enumerate(sizes.items()) for n in range(size)
    ]
    left, reasons = run(rows, category_share=0.5)
    counts = Counter(left["category"].to_list())
    assert counts == {"a": 40, "b": 30, "c": 10}
    assert reasons == {"category_share": 20}
    equal, _ = run(rows, category_share=0.1)
    assert set(Counter(equal["category"].to_list()).values()) == {10}


def test_all_shares_hold_together() -> None:
    chance = random.Random(5)
    rows = [
        row(
            n, lang=chance.choice(["ko", "en", "en"]), category=chance.choice("abcdef"), keys=[f"k{n % 7}"],
            label_source=chance.choice(["golden", "synthetic", "positive_feedback"]), generation=1,
        )
        for n in range(900)
    ]  # fmt: skip
    limits = {"own_share": 0.2, "synthetic_share": 0.3, "language_shares": {"en": 0.4}, "category_share": 0.2}
    left, _ = run(rows, **limits)
    total = left.height
    assert left.filter(pl.col("label_source") == "positive_feedback").height <= 0.2 * total
    assert left.filter(pl.col("label_source") == "synthetic").height <= 0.3 * total
    assert left.filter(pl.col("lang") == "en").height <= 0.4 * total
    assert max(Counter(left["category"].to_list()).values()) <= 0.2 * total + 1e-9
