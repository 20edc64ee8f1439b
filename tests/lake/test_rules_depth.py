"""Generations: how many of our own trainings lie between an answer and people's words."""

from __future__ import annotations

import pytest

from lake.rules.depth import Lineage, trained_depth
from lake.rules.pairs import check_pair

A, B = "0123456789abcdef", "fedcba9876543210"
LINEAGE = Lineage(frozenset({"base"}), {A: trained_depth(0), B: trained_depth(3)})


@pytest.mark.parametrize(
    ("model", "adapter", "backend", "depth"),
    [
        ("base", None, None, 1),
        ("whatever", None, "vllm", 1),
        ("gpt-x", None, "openai", 0),
        (None, None, None, 1),
        (f"mulle-{A}-01kb", None, "vllm", 1),
        (f"{B}:latest", None, "ollama", 4),
        ("base", B, "vllm", 4),
        ("base", "0000000000000000", "vllm", 4),
    ],
)
def test_depth_of_an_answer(model: str | None, adapter: str | None, backend: str | None, depth: int) -> None:
    assert LINEAGE.depth(model, adapter, backend) == depth


def test_pairs_need_a_person_and_a_served_answer_that_differs() -> None:
    def check(source: str, served: str | None, outcome: str = "answered", finish: str = "stop") -> str:
        return check_pair(source, "추천: 가\n이유: 좋습니다.", served, outcome, finish, "ko")[1]

    assert check("golden", "추천: 나\n이유: 좋습니다.") == ""
    assert check("teacher", "추천: 나\n이유: 좋습니다.") == "no_preference"
    assert check("correction", "추천:  가\n이유: 좋습니다. ") == "same_answer"
    assert check("correction", "Recommendation: other words only") == "wrong_language"
    assert check("golden", None) == "empty"
    assert check("golden", "추천: 나", "llm_error") == "error_outcome"
    assert check("golden", "추천: 나", finish="length") == "truncated"
