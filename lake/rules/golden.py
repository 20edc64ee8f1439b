"""The golden answer of a question that several people reviewed: majority on the tools, then the newest. Pure.

A reviewer speaks once: of several reviews by the same one the newest counts (unnamed reviewers can't be told apart and
are one). Reviews agree where they name the same set of tools; how their words differ is measured elsewhere
(`flows/steps/agreement.py`). Where no set of tools has more than half of the reviewers, the question is in conflict:
the newest review of the largest sets stands for it meanwhile, and the question stays in the review queue.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Golden:
    """What the reviews of one question come to."""

    review: Row  # the one whose answer is taken
    reviewers: int
    agreeing: int  # of them, those who named the same tools
    conflict: bool  # not more than half agree

    @property
    def dissent(self) -> int:
        """Reviewers who named other tools; counted in reports."""
        return self.reviewers - self.agreeing


def tool_set(review: Row) -> tuple[str, ...]:
    """The tools that a review names, sorted and once each; empty: no tool suits."""
    return tuple(sorted(set(review.get("tools") or ())))


def _age(review: Row) -> tuple[Any, str]:
    return review["timestamp"], str(review["review_id"])


def newest_of_each_reviewer(reviews: Iterable[Row]) -> list[Row]:
    """One review a reviewer, newest first."""
    latest: dict[str, Row] = {}
    for review in sorted(reviews, key=_age, reverse=True):
        latest.setdefault(review.get("reviewer") or "", review)
    return list(latest.values())


def golden_of(reviews_of_one_question: Sequence[Row]) -> Golden | None:
    """The review to train on; None where there is none. Its order does not matter.

    Rows are those of the table reviews: review_id, timestamp, reviewer, tools, and whatever else they have.
    """
    latest = newest_of_each_reviewer(reviews_of_one_question)
    if not latest:
        return None
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)  # each newest first
    for review in latest:
        groups[tool_set(review)].append(review)
    chosen = max(groups.values(), key=lambda group: (len(group), _age(group[0])))
    return Golden(chosen[0], len(latest), len(chosen), conflict=2 * len(chosen) <= len(latest) and len(latest) > 1)
