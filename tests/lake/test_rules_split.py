"""The split: decided once, for a whole cluster, and never flipped by what comes later."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake.errors import DatasetError
from lake.rules.cluster import near_pairs
from lake.rules.shingles import question_key, shingle
from lake.rules.split import Assignment, Decision, SplitBook, assign, load_book, save_book

WORDS = [
    "화상",
    "회의",
    "녹화",
    "메신저",
    "디자인",
    "편집",
    "무료",
    "팀",
    "일정",
    "공유",
    "그래프",
    "번역",
    "backup",
    "notes",
    "chart",
    "code",
    "review",
    "db",
]
THRESHOLD = 0.4


def questions(n: int, seed: int, length: int = 7) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=length)) for _ in range(n)]


def split(texts: list[str], book: SplitBook | None = None, test: list[str] | None = None) -> Assignment:
    return assign(texts, test or [], book or SplitBook(), seed=3, holdout_share=0.2, threshold=THRESHOLD)


def sides(result: Assignment) -> dict[str, str]:
    return {key: decision.side for key, decision in result.decided.items()}


def assert_no_near_pair_crosses(texts: list[str], result: Assignment) -> None:
    kept = [text for text in dict.fromkeys(texts) if question_key(text) in result.decided]
    for a, b, _ in near_pairs(shingle(kept), THRESHOLD).tuples():
        one, other = result.decided[question_key(kept[a])], result.decided[question_key(kept[b])]
        assert one.side == other.side
        assert one.cluster_id == other.cluster_id


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
    for key, decision in before.decided.items():
        assert after.decided[key].side == decision.side
    counted = len(after.decided) + len(after.rejected)
    assert counted == len({question_key(text) for text in both})
    assert set(after.rejected.values()) <= {"bridges_split"}


def test_the_order_of_questions_changes_nothing() -> None:
    texts = questions(60, 5)
    assert split(texts) == split(texts[::-1] + texts[:7])


def test_the_same_questions_again_give_the_same_result() -> None:
    texts = questions(60, 9)
    first = split(texts)
    again = split(texts, first.book)
    assert (again.decided, again.rejected, again.book) == (first.decided, first.rejected, first.book)


def test_a_question_near_both_sides_is_dropped() -> None:
    a = "회의를 녹화해서 팀에 링크로 공유하는 도구"
    b = "무료로 영상을 편집해서 자막을 넣는 프로그램"
    book = SplitBook(
        {
            question_key(a): Decision("train", "c-a", a.replace(" ", "")),
            question_key(b): Decision("holdout", "c-b", b.replace(" ", "")),
        }
    )
    bridge = f"{a} {b}"
    chain = f"{b} {a}"  # near the bridge as well
    result = split([a, b, bridge, chain, "서버 백업 자동화"], book)
    assert {result.rejected[question_key(text)] for text in (bridge, chain)} == {"bridges_split"}
    assert {result.decided[question_key(a)].side, result.decided[question_key(b)].side} == {"train", "holdout"}
    assert result.decided[question_key("서버 백업 자동화")].side in ("train", "holdout")


def test_a_near_neighbour_of_a_question_that_is_gone_takes_its_side() -> None:
    gone = "인사담당인데 직원 30명 연차 신청 출퇴근 기록 관리"
    book = SplitBook({question_key(gone): Decision("holdout", "c-x", "인사담당인데직원30명연차신청출퇴근기록관리")})
    new = "인사담당입니다 직원 30명 연차 신청과 출퇴근 기록 관리"
    result = split([new], book)
    assert result.decided[question_key(new)].side == "holdout"
    assert result.decided[question_key(new)].cluster_id == "c-x"
    assert question_key(gone) in result.book.decisions


def test_nothing_near_a_test_question_enters() -> None:
    test = ["팟캐스트 녹음에서 에어컨 소음 줄이는 프로그램"]
    near, same, far = (
        "팟캐스트 녹음에서 에어콘 소음 줄이는 프로그램",
        "팟캐스트녹음에서 에어컨 소음줄이는 프로그램?",
        "표로 그래프 그리기",
    )
    known = split([near, far])
    for book in (SplitBook(), known.book):  # also where an earlier build let it in
        result = split([near, same, far], book, test)
        assert result.rejected == {question_key(near): "near_test", question_key(same): "near_test"}
        assert list(result.decided) == [question_key(far)]


def test_a_lower_threshold_drops_the_training_side_of_what_now_touches() -> None:
    a, b = "무료 디자인 편집 도구 추천해줘", "무료 디자인 공유 도구 추천해줘"
    book = SplitBook(
        {
            question_key(a): Decision("train", "c-a", a.replace(" ", "")),
            question_key(b): Decision("holdout", "c-b", b.replace(" ", "")),
        }
    )
    result = assign([a, b], [], book, 3, 0.2, 0.3)
    assert result.rejected == {question_key(a): "bridges_split"}
    assert list(result.decided) == [question_key(b)]


def test_the_share_is_kept_and_small_sets_get_a_holdout() -> None:
    texts = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS if a < b < c][:800]
    drawn = assign(texts, [], SplitBook(), 11, 0.1, 0.95)
    held = sum(decision.side == "holdout" for decision in drawn.decided.values())
    assert 0.06 < held / len(drawn.decided) < 0.14
    for seed in range(10):
        few = assign(WORDS[:6], [], SplitBook(), seed, 0.01, 0.9)
        assert sum(decision.side == "holdout" for decision in few.decided.values()) >= 1
        one = assign(["팀 메신저"], [], SplitBook(), seed, 0.5, 0.9)
        assert [decision.side for decision in one.decided.values()] == ["train"]
    none = assign(WORDS[:6], [], SplitBook(), 1, 0.0, 0.9)
    assert {decision.side for decision in none.decided.values()} == {"train"}


def test_empty_questions_are_named() -> None:
    assert split(["?!"]).rejected == {question_key("?!"): "empty_question"}


def test_the_book_survives_the_disk_and_a_broken_one_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "splits.json"
    assert load_book(path) == SplitBook()
    book = split(questions(20, 1)).book
    save_book(path, book)
    first = path.read_bytes()
    assert load_book(path) == book
    save_book(path, SplitBook(dict(reversed(list(book.decisions.items())))))
    assert path.read_bytes() == first
    for broken in (b"{", b"[]", b'{"version": 9}', first.replace(b'"train"', b'"test"')):
        path.write_bytes(broken)
        with pytest.raises(DatasetError, match="restore it from a backup"):
            load_book(path)
