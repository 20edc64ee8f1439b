"""The book on disk: nothing flips, nothing is readable, nothing is left half done."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import numpy as np
import orjson
import pytest

from lake import split_store
from lake.errors import DatasetError
from lake.rules.book import SplitBook
from lake.rules.keys import to_hex
from lake.rules.shingles import normalise_question, question_key
from lake.rules.split import assign
from lake.split_store import SplitStore, one_at_a_time

WORDS = [
    "화상",
    "회의",
    "녹화",
    "메신저",
    "디자인",
    "편집",
    "무료",
    "일정",
    "공유",
    "그래프",
    "번역",
    "backup",
    "chart",
]


def questions(n: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=6)) for _ in range(n)]


def columns(book: SplitBook) -> list[object]:
    sets = [row.tolist() for row in book.shingles.rows()]
    return [
        to_hex(book.keys), book.holdout.tolist(), book.clusters.tolist(), book.blocked.tolist(), sets,
        book.threshold, book.tests,
    ]  # fmt: skip


def build(store: SplitStore, texts: list[str], test: list[str] | None = None) -> SplitBook:
    book = assign(texts, test or [], store.load(), 3, 0.2, 0.5).book
    store.save(book)
    return book


def content(store: SplitStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.files()}


def former(path: Path, texts: list[str]) -> dict[str, str]:
    """A splits.json as earlier versions wrote it; sides by question key."""
    sides = {question_key(text): "holdout" if number % 3 else "train" for number, text in enumerate(texts)}
    decisions = {
        question_key(text): {
            "side": sides[question_key(text)],
            "cluster_id": f"c-{question_key(text)[:16]}",
            "text": normalise_question(text),
        }
        for text in texts
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps({"version": 1, "shingling": "old", "decisions": decisions}))
    return sides


def test_it_comes_back_as_it_was_saved_however_often_it_grew(tmp_path: Path) -> None:
    store = SplitStore(tmp_path)
    assert len(store.load()) == 0
    for seed in range(split_store.MANY_PARTS + 3):
        book = build(store, questions(12, seed), questions(1, 99))
        assert columns(store.load()) == columns(book)
    assert len(store.files()) < split_store.MANY_PARTS  # written together on the way
    before = content(store)
    store.save(store.load())
    assert content(store) == before


def test_nothing_new_reads_no_shingles(tmp_path: Path) -> None:
    store = SplitStore(tmp_path)
    build(store, questions(30, 1))
    texts = [text for text in questions(30, 1) if question_key(text)[:32] in to_hex(store.load().keys)]
    for path in tmp_path.glob("splits/shingles-*"):
        path.write_bytes(b"gone")
    result = assign(texts, [], store.load(), 3, 0.2, 0.5)
    assert (result.new, set(result.reason.tolist())) == (0, {0})
    with pytest.raises(DatasetError, match="restore it from a backup"):
        assign([*texts, "전혀 새로운 질문"], [], store.load(), 3, 0.2, 0.5)


def test_no_text_is_in_it(tmp_path: Path) -> None:
    store = SplitStore(tmp_path)
    build(store, ["팟캐스트 녹음에서 에어컨 소음 줄이는 프로그램", *questions(20, 2)], ["시험 문제로 낸 질문"])
    every = b"".join(content(store).values())
    for text in ("팟캐스트", "에어컨", "메신저", "시험", "backup"):
        assert text.encode() not in every
        assert text.encode("utf-16-le") not in every


def test_forgotten_questions_are_in_no_file_and_the_others_stay(tmp_path: Path) -> None:
    store = SplitStore(tmp_path)
    build(store, questions(40, 3))
    before = build(store, questions(40, 4))
    gone = to_hex(before.keys)[::5]
    assert store.forget([*gone, "00" * 32]) == len(gone)
    after = store.load()
    keep = ~np.isin(np.array(to_hex(before.keys)), gone)
    assert to_hex(after.keys) == np.array(to_hex(before.keys))[keep].tolist()
    assert after.holdout.tolist() == before.holdout[keep].tolist()
    assert [row.tolist() for row in after.shingles.rows()] == [
        row.tolist() for row, kept in zip(before.shingles.rows(), keep, strict=True) if kept
    ]
    every = b"".join(content(store).values())
    assert not [key for key in gone if bytes.fromhex(key) in every]
    assert store.forget(gone) == 0
    assert store.forget([]) == 0


@pytest.mark.parametrize("step", range(4))
def test_a_kill_leaves_the_old_book_or_the_new_one(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SplitStore(tmp_path)
    old = build(store, questions(20, 5))
    new = assign(questions(20, 6), [], store.load(), 3, 0.2, 0.5).book
    calls = 0

    def dies(path: Path, data: bytes) -> None:
        nonlocal calls
        if calls == step:
            raise KeyboardInterrupt
        calls += 1
        write(path, data)

    write = split_store.write_bytes_atomic
    monkeypatch.setattr(split_store, "write_bytes_atomic", dies)
    if step < 3:  # two files, then the commit
        with pytest.raises(KeyboardInterrupt):
            store.save(new)
        assert columns(store.load()) == columns(old)
    monkeypatch.setattr(split_store, "write_bytes_atomic", write)
    store.save(new)
    assert columns(store.load()) == columns(new)
    assert len(store.files()) == 4  # book.json, one file of decisions, two of shingles: nothing is left over


def test_a_kill_while_forgetting_is_finished_by_the_next_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SplitStore(tmp_path)
    gone = to_hex(build(store, questions(20, 5)).keys)[:3]
    monkeypatch.setattr(SplitStore, "_sweep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.forget(gone)
    monkeypatch.undo()
    store.forget(gone)
    every = b"".join(content(store).values())
    assert not [key for key in gone if bytes.fromhex(key) in every]


def test_the_former_book_is_taken_over_and_its_text_goes(tmp_path: Path) -> None:
    texts = questions(30, 7)
    sides = former(tmp_path / "splits.json", texts)
    store = SplitStore(tmp_path)
    result = assign(texts, [], store.load(), 3, 0.2, 0.99)
    assert result.new == 0
    assert [result.side(row) for row in range(len(texts))] == [sides[question_key(text)] for text in texts]
    store.save(result.book)
    assert not (tmp_path / "splits.json").exists()
    assert columns(store.load()) == columns(result.book)
    former(tmp_path / "splits.json", questions(3, 8))  # a kill between save and removal
    assert columns(store.load()) == columns(result.book)
    assert not (tmp_path / "splits.json").exists()


def test_a_former_book_that_only_forgets_keeps_no_text(tmp_path: Path) -> None:
    texts = questions(5, 7)
    former(tmp_path / "splits.json", texts)
    assert SplitStore(tmp_path).forget([question_key(texts[0])]) == 1
    assert not (tmp_path / "splits.json").exists()
    assert len(SplitStore(tmp_path).load()) == 4


def test_a_broken_book_says_what_to_do(tmp_path: Path) -> None:
    for broken in (b"{", b"[]", b'{"version": 9}', b'{"version": 1, "decisions": {"ab": {"side": "train"}}}'):
        (tmp_path / "splits.json").write_bytes(broken)
        with pytest.raises(DatasetError, match="restore it from a backup"):
            SplitStore(tmp_path).load()
    (tmp_path / "splits.json").unlink()
    store = SplitStore(tmp_path)
    build(store, questions(20, 9))
    whole = content(store)
    for name, data in whole.items():
        middle = len(data) // 2
        for harmed in (b"", data[:middle], data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]):
            (store.folder / name).write_bytes(harmed)
            try:
                columns(store.load())
            except DatasetError as error:
                assert "restore it from a backup" in str(error)
            else:
                pytest.fail(f"{name} was harmed and read")
        (store.folder / name).write_bytes(data)


def test_forgetting_waits_for_a_build(tmp_path: Path) -> None:
    store = SplitStore(tmp_path)
    gone = to_hex(build(store, questions(20, 9)).keys)[:2]
    done: list[int] = []
    with one_at_a_time(tmp_path):
        book = store.load()
        other = threading.Thread(target=lambda: done.append(store.forget(gone)))
        other.start()
        time.sleep(0.2)
        assert not done
        store.save(book)
    other.join(timeout=30)
    assert done == [2]
    assert len(store.load()) == len(book) - 2
