"""Several reviewers, one golden answer: majority on the tools, then the newest; conflicts are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

from lake.rules.golden import golden_of, newest_of_each_reviewer

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def review(n: int, reviewer: str, *tools: str) -> dict[str, Any]:
    time = T0 + timedelta(minutes=n)
    return {"review_id": f"r{n}", "timestamp": time, "reviewer": reviewer, "tools": list(tools), "answer": f"a{n}"}


def outcome(*reviews: dict[str, Any]) -> tuple[str, int, int, bool]:
    """Answer, reviewers, agreeing, conflict; the same for every order."""
    found = {
        (got.review["answer"], got.reviewers, got.agreeing, got.conflict)
        for order in permutations(reviews)
        if (got := golden_of(order))
    }
    (only,) = found
    return only


def test_one_reviewer_is_believed_and_may_change_their_mind() -> None:
    assert golden_of([]) is None
    assert outcome(review(1, "kim", "slack")) == ("a1", 1, 1, False)
    assert outcome(review(1, "kim", "slack"), review(2, "kim", "zoom")) == ("a2", 1, 1, False)
    assert outcome(review(1, "", "slack"), review(2, "", "zoom")) == ("a2", 1, 1, False)  # unnamed: the newest, as ever


def test_most_reviewers_win_over_the_newest() -> None:
    reviews = review(1, "kim", "slack"), review(2, "lee", "slack"), review(3, "han", "zoom")
    assert outcome(*reviews) == ("a2", 3, 2, False)
    got = golden_of(reviews)
    assert got is not None and got.dissent == 1


def test_the_order_and_number_of_tools_do_not_matter() -> None:
    assert outcome(review(1, "kim", "a", "b"), review(2, "lee", "b", "a", "b")) == ("a2", 2, 2, False)
    assert outcome(review(1, "kim"), review(2, "lee", "a")) == ("a2", 2, 1, True)  # "none suits" is a choice too


def test_no_majority_is_a_conflict() -> None:
    assert outcome(review(1, "kim", "slack"), review(2, "lee", "zoom")) == ("a2", 2, 1, True)
    tie = review(1, "a", "x"), review(2, "b", "x"), review(3, "c", "y"), review(4, "d", "y")
    assert outcome(*tie) == ("a4", 4, 2, True)
    plural = review(1, "a", "x"), review(2, "b", "x"), review(3, "c", "y"), review(4, "d", "z")
    assert outcome(*plural) == ("a2", 4, 2, True)  # the most, but not more than half
    assert outcome(*tie, review(5, "b", "y")) == ("a5", 4, 3, False)  # one who changes their mind settles it


def test_each_reviewer_speaks_once() -> None:
    reviews = [review(1, "kim", "a"), review(3, "kim", "b"), review(2, "lee", "a")]
    assert [one["review_id"] for one in newest_of_each_reviewer(reviews)] == ["r3", "r2"]
