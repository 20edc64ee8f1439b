"""Shingles, near-duplicate pairs and clusters: exact, verified, and the same in any order."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake.rules.cluster import best_cross, components, near_pairs
from lake.rules.shingles import jaccard, normalise_question, question_key, shingle
from tests.lake.question_words import WORDS as KOREAN

WORDS = [*KOREAN, "backup", "notes", "chart", "code", "review"]


def questions(n: int, seed: int = 7) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=9)) for _ in range(n)]


def brute(texts: list[str], threshold: float) -> set[tuple[str, str]]:
    sets = [set(shingle([text]).hashes.tolist()) for text in texts]
    found: set[tuple[str, str]] = set()
    for i in range(len(texts)):
        for j in range(i + 1, len(texts)):
            if len(sets[i] & sets[j]) >= threshold * len(sets[i] | sets[j]) > 0:
                found.add((texts[i], texts[j]))
    return found


def test_spacing_case_width_and_punctuation_do_not_count() -> None:
    assert normalise_question("화상 회의 툴?") == normalise_question("화상회의툴") == "화상회의툴"
    assert question_key("ＰＤＦ Editor!") == question_key("pdf editor")
    assert question_key("C++ 편집기") != question_key("C 편집기")


def test_a_mistyped_letter_stays_near_another_wish_does_not() -> None:
    near = shingle(["팟캐스트 녹음에서 소음 줄이는 프로그램 있나요", "팟캐스트 녹음에서 소음 줄이는 프르그램 있나요"])
    far = shingle(["팟캐스트 녹음에서 소음 줄이는 프로그램 있나요", "회의 시간을 링크로 잡는 예약 서비스"])
    assert jaccard(near.row(0), near.row(1)) > 0.8
    assert jaccard(far.row(0), far.row(1)) < 0.1


def test_rows_of_a_batch_equal_rows_alone() -> None:
    texts = ["가", "", "ab", "화상 회의", "!!", "version control"]
    together = shingle(texts)
    for number, text in enumerate(texts):
        assert together.row(number).tolist() == shingle([text]).row(0).tolist()
    assert together.sizes.tolist()[1] == 0
    assert together.sizes.tolist()[4] == 0
    assert np.all(np.diff(together.row(3).astype(object)) > 0)


@pytest.mark.parametrize("exact_cells", [10_000_000, 0], ids=["exact", "lsh"])
def test_pairs_are_those_of_brute_force(exact_cells: int) -> None:
    texts = sorted(set(questions(120)))
    texts += [text[:-1] for text in texts[:20]]
    pairs = near_pairs(shingle(texts), 0.6, exact_cells)
    assert {(texts[a], texts[b]) for a, b, _ in pairs.tuples()} == brute(texts, 0.6)
    assert len(pairs) >= 20
    assert pairs.method == ("exact" if exact_cells else "minhash-lsh+verify")
    assert all(value >= 0.6 for value in pairs.similarity.tolist())


def test_pairs_do_not_depend_on_the_order() -> None:
    texts = questions(80)
    for exact_cells in (0, 10_000_000):
        found = []
        for order in (texts, texts[::-1]):
            pairs = near_pairs(shingle(order), 0.4, exact_cells).tuples()
            found.append({(frozenset((order[a], order[b])), round(v, 9)) for a, b, v in pairs})
        assert found[0] == found[1]


def test_empty_and_threshold() -> None:
    assert len(near_pairs(shingle([]), 0.5)) == 0
    assert len(near_pairs(shingle(["", "", "?"]), 0.5)) == 0
    with pytest.raises(ValueError, match="threshold"):
        near_pairs(shingle(["a"]), 0.0)


@pytest.mark.parametrize("exact_cells", [10_000_000, 0])
def test_best_cross_finds_the_planted_pair(exact_cells: int) -> None:
    left, right = questions(50, seed=1), questions(50, seed=2)
    right[31] = left[17] + " 해줘"
    best = best_cross(shingle(left), shingle(right), 0.4, exact_cells)
    assert (best.left, best.right) == (17, 31)
    assert best.similarity > 0.8
    assert best_cross(shingle([]), shingle(right), 0.3).similarity == 0.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=25), st.randoms(use_true_random=False))
def test_components_are_connected_and_order_free(edges: list[tuple[int, int]], chance: random.Random) -> None:
    roots = components(15, edges)
    for a, b in edges:
        assert roots[a] == roots[b]
    assert all(roots[root] == root and root == min(n for n in range(15) if roots[n] == root) for root in set(roots))
    shuffled = edges[:]
    chance.shuffle(shuffled)
    assert components(15, [(b, a) for a, b in shuffled]) == roots
