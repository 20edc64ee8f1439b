"""The split: decided once, for a whole cluster, and never flipped by what comes later."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake.rules.book import SplitBook, cluster_name
from lake.rules.cluster import near_pairs
from lake.rules.keys import from_hex, keys_of, to_hex
from lake.rules.shingles import normalise_question, question_key, shingle, shingle_normalised
from lake.rules.split import Assignment, assign
from tests.lake.question_words import WORDS as KOREAN

WORDS = [*KOREAN, "backup", "notes", "chart", "code", "review", "db"]
THRESHOLD = 0.4


def questions(n: int, seed: int, length: int = 7) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=length)) for _ in range(n)]


def split(texts: list[str], book: SplitBook | None = None, test: list[str] | None = None) -> Assignment:
    return assign(texts, test or [], book or SplitBook(), seed=3, holdout_share=0.2, threshold=THRESHOLD)


def decided(texts: list[str], result: Assignment) -> dict[str, tuple[str, str]]:
    """Side and cluster of each text that may enter."""
    return {
        text: (result.side(row), result.cluster_id(row)) for row, text in enumerate(texts) if not result.rejected(row)
    }


def rejected(texts: list[str], result: Assignment) -> dict[str, str]:
    return {text: result.rejected(row) for row, text in enumerate(texts) if result.rejected(row)}


def outcome(texts: list[str], result: Assignment) -> dict[str, tuple[str, str] | str]:
    """By question key, so that repeats and order don't count."""
    found = decided(texts, result) | rejected(texts, result)
    return {question_key(text): value for text, value in found.items()}


def columns(book: SplitBook) -> list[list[object]]:
    sets = [row.tolist() for row in book.shingles.rows()]
    return [to_hex(book.keys), book.holdout.tolist(), book.clusters.tolist(), book.blocked.tolist(), sets]


def made_book(sides: dict[str, tuple[str, int]]) -> SplitBook:
    """A book of these questions, with their side and cluster."""
    texts = sorted(sides, key=question_key)
    normal = [normalise_question(text) for text in texts]
    return SplitBook(
        keys_of(normal),
        np.array([sides[text][0] == "holdout" for text in texts]),
        np.array([sides[text][1] for text in texts], dtype=np.uint64),
        np.zeros(len(texts), dtype=np.uint8),
        THRESHOLD,
        load=lambda: (shingle_normalised(normal), np.arange(len(normal))),
    )


def assert_no_near_pair_crosses(texts: list[str], result: Assignment) -> None:
    kept = decided(texts, result)
    names = list(kept)
    for a, b, _ in near_pairs(shingle(names), THRESHOLD).tuples():
        assert kept[names[a]] == kept[names[b]]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 40), st.integers(1, 40), st.integers(3, 8))
def test_two_builds_apart_flip_nothing_and_cross_nothing(seed: int, first: int, more: int, length: int) -> None:
    old = questions(first, seed, length)
    before = split(old)
    assert_no_near_pair_crosses(old, before)
    both = old + questions(more, seed + 1, length)
    random.Random(seed).shuffle(both)
    after = split(both, before.book)
    assert_no_near_pair_crosses(both, after)
    later = decided(both, after)
    for text, (side, _) in decided(old, before).items():
        assert later[text][0] == side
    assert set(rejected(both, after).values()) <= {"bridges_split"}


def test_the_order_of_questions_changes_nothing() -> None:
    texts = questions(60, 5)
    other = texts[::-1] + texts[:7]
    one, two = split(texts), split(other)
    assert outcome(texts, one) == outcome(other, two)
    assert columns(one.book) == columns(two.book)


def test_the_same_questions_again_give_the_same_result() -> None:
    texts = questions(60, 9)
    first = split(texts)
    again = split(texts, first.book)
    assert outcome(texts, again) == outcome(texts, first)
    assert columns(again.book) == columns(first.book)
    assert again.new == len(rejected(texts, first))


def test_a_question_near_both_sides_is_dropped() -> None:
    a = "회의를 녹화해서 팀에 링크로 공유하는 도구"
    b = "무료로 영상을 편집해서 자막을 넣는 프로그램"
    book = made_book({a: ("train", 1), b: ("holdout", 2)})
    bridge = f"{a} {b}"
    chain = f"{b} {a}"  # near the bridge as well
    texts = [a, b, bridge, chain, "서버 백업 자동화"]
    result = split(texts, book)
    assert rejected(texts, result) == {bridge: "bridges_split", chain: "bridges_split"}
    sides = {text: side for text, (side, _) in decided(texts, result).items()}
    assert (sides[a], sides[b]) == ("train", "holdout")
    assert sides["서버 백업 자동화"] in ("train", "holdout")


def test_a_near_neighbour_of_a_question_that_is_gone_takes_its_side() -> None:
    gone = "인사담당인데 직원 30명 연차 신청 출퇴근 기록 관리"
    new = "인사담당입니다 직원 30명 연차 신청과 출퇴근 기록 관리"
    result = split([new], made_book({gone: ("holdout", 77)}))
    assert decided([new], result) == {new: ("holdout", cluster_name(77))}
    assert question_key(gone)[:32] in to_hex(result.book.keys)


def test_nothing_near_a_test_question_enters() -> None:
    test = ["팟캐스트 녹음에서 에어컨 소음 줄이는 프로그램"]
    near, same, far = (
        "팟캐스트 녹음에서 에어콘 소음 줄이는 프로그램",
        "팟캐스트녹음에서 에어컨 소음줄이는 프로그램?",
        "표로 그래프 그리기",
    )
    known = split([near, far])
    for book in (SplitBook(), known.book):  # also where an earlier build let it in
        texts = [near, same, far]
        result = split(texts, book, test)
        assert rejected(texts, result) == {near: "near_test", same: "near_test"}
        assert list(decided(texts, result)) == [far]
        again = split(texts, result.book, test)  # the book remembers, nothing is compared
        assert outcome(texts, again) == outcome(texts, result)
        assert near in decided(texts, split(texts, result.book)) or book is not known.book  # the test question is gone


def test_a_lower_threshold_drops_the_training_side_of_what_now_touches() -> None:
    a, b = "무료 디자인 편집 도구 추천해줘", "무료 디자인 공유 도구 추천해줘"
    book = made_book({a: ("train", 1), b: ("holdout", 2)})
    low = assign([a, b], [], book, 3, 0.2, 0.3)
    again = assign([a, b], [], low.book, 3, 0.2, 0.3)
    for result in (low, again):
        assert rejected([a, b], result) == {a: "bridges_split"}
        assert list(decided([a, b], result)) == [b]
    back = assign([a, b], [], again.book, 3, 0.2, 0.9)
    assert {text: side for text, (side, _) in decided([a, b], back).items()} == {a: "train", b: "holdout"}


def test_synthetic_rows_join_clusters_and_are_never_held_out() -> None:
    held = "인사담당인데 직원 30명 연차 신청 출퇴근 기록 관리"
    near = "인사담당인데 직원 30명 연차 신청과 출퇴근 기록 관리"
    far = [f"{a} {b} {c}" for a, b, c in zip(WORDS, WORDS[5:], WORDS[9:], strict=False)]
    texts = [held, near, *far]
    result = assign(texts, [], made_book({held: ("holdout", 5)}), 3, 0.5, THRESHOLD, [False, True, *[True] * len(far)])
    assert rejected(texts, result) == {near: "synthetic_holdout"}
    assert {side for text, (side, _) in decided(texts, result).items() if text != held} == {"train"}
    both = assign([near, near], [], made_book({held: ("holdout", 5)}), 3, 0.5, THRESHOLD, [True, False])
    assert decided([near], both) == {near: ("holdout", cluster_name(5))}  # a person asked it too


def test_the_share_is_kept_and_small_sets_get_a_holdout() -> None:
    texts = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS if a < b < c][:800]
    drawn = decided(texts, assign(texts, [], SplitBook(), 11, 0.1, 0.95))
    held = sum(side == "holdout" for side, _ in drawn.values())
    assert 0.06 < held / len(drawn) < 0.14
    for seed in range(10):
        few = assign(WORDS[:6], [], SplitBook(), seed, 0.01, 0.9)
        assert few.holdout.sum() >= 1
        one = assign(["팀 메신저"], [], SplitBook(), seed, 0.5, 0.9)
        assert not one.holdout.any()
    none = assign(WORDS[:6], [], SplitBook(), 1, 0.0, 0.9)
    assert not none.holdout.any()


def test_an_erased_question_that_comes_back_takes_no_other_clusters_name() -> None:
    a, b = "회의를 녹화해서 팀에 링크로 공유하는 도구", "무료로 영상을 편집해서 자막을 넣는 프로그램"
    name = int(question_key(a)[:16], 16)  # the cluster of `b` is named after `a`, which the book no longer has
    result = split([a, b], made_book({b: ("holdout", name)}))
    clusters = {text: cluster for text, (_, cluster) in decided([a, b], result).items()}
    assert clusters[b] == cluster_name(name)
    assert clusters[a] != clusters[b]


def test_empty_questions_are_named() -> None:
    assert rejected(["?!"], split(["?!"])) == {"?!": "empty_question"}
    assert split([]).new == 0


def test_keys_keep_their_order_and_their_zeros() -> None:
    hexes = sorted(question_key(text) for text in questions(300, 2))
    hexes.append("ff" * 14 + "0000")
    assert to_hex(from_hex(hexes)) == [key[:32] for key in hexes]
    assert from_hex(hexes).tolist() == sorted(from_hex(hexes).tolist())
    with pytest.raises(ValueError, match="32 hex"):
        from_hex(["ab"])
