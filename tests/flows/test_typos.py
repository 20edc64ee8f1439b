"""Typos that a Korean keyboard makes: the automaton is exact, the slips are seeded and small."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.steps.typos import NEIGHBOURS, from_keys, mistype, to_keys
from lake.rules.shingles import jaccard, shingle

SAMPLE = Path(__file__).resolve().parents[2] / "data/sample/questions.jsonl"
QUESTIONS = [orjson.loads(line)["question"] for line in SAMPLE.read_bytes().splitlines()]


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("ghldml", "회의"), ("dkssud", "안녕"), ("rkqtdl", "값이"), ("rkqt", "값"), ("ekfrdl", "닭이"),
        ("zoom", "캐ㅐㅡ"), ("Tkf", "쌀"), ("rr", "ㄱㄱ"), ("hk", "ㅘ"), ("rkTek", "갔다"), ("rkE", "가ㄸ"),
        ("a1a", "ㅁ1ㅁ"), ("", ""),
    ],
)  # fmt: skip
def test_the_automaton_of_the_two_set_keyboard(keys: str, text: str) -> None:
    assert from_keys(keys) == text


@given(st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3), max_size=12))
def test_hangul_survives_its_keys(text: str) -> None:
    assert from_keys(to_keys(text)) == text


def test_neighbours_are_mutual() -> None:
    assert all(key in NEIGHBOURS[other] for key, near in NEIGHBOURS.items() for other in near)
    assert set(NEIGHBOURS["g"]) == set("fhtyvb")


def test_every_question_gets_small_seeded_slips() -> None:
    near: list[float] = []
    for question in QUESTIONS:
        typed = mistype(question, "1")
        assert typed != question and typed == mistype(question, "1")
        assert abs(len(typed) - len(question)) <= len(question) // 2
        rows = shingle([question, typed])
        near.append(jaccard(rows.row(0), rows.row(1)))
    assert sum(value > 0.4 for value in near) > 0.9 * len(near)  # it is still the same question
    assert len({mistype(QUESTIONS[0], str(seed)) for seed in range(20)}) > 10


@given(st.text(max_size=40), st.integers(0, 5))
def test_any_text_may_be_mistyped(text: str, seed: int) -> None:
    mistype(text, str(seed))
