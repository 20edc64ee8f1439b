"""Terms and BM25: Korean morphemes, English stems, n-grams that survive typos, scores that add up."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake.schemas.rows import Tool
from serving.analysis import ngrams, words
from serving.chunks import chunk_tool, split_text
from serving.lexical import Bm25, read_bm25, write_bm25
from serving.mapped import StringTable, StringWriter, map_bytes
from serving.names import find_names


def test_korean_words_lose_their_endings() -> None:
    assert "디자이너" in words("디자이너들이 화면을 같이 고치는 도구")
    assert set(words("화상회의를 녹화하고 싶어요")) & set(words("화상 회의 녹화"))
    assert "툴" not in words("이런 툴 추천해 주세요")
    assert "docker" in words("Docker로 배포하려면")


def test_english_words_are_stemmed_alike() -> None:
    assert words("recording meetings") == words("record meeting")
    assert words("databases") == words("database")
    assert words("the of and") == []
    assert words("C++ and C#") == ["c++", "c#"]


def test_ngrams_survive_typos() -> None:
    right, wrong = set(ngrams("conference")), set(ngrams("confernce"))
    assert len(right & wrong) >= 5
    assert set(ngrams("화상회의")) == {"화상", "상회", "회의"}


@given(st.text(max_size=200))
def test_any_text_has_terms_without_failing(text: str) -> None:
    assert all(words(text)) and all(ngrams(text))


def build_bm25(documents: Sequence[Sequence[str]], folder: Path) -> Bm25:
    """Written and read again."""
    names, indptr, idf = write_bm25(documents, folder, "words")
    strings = StringWriter(folder / "strings.bin")
    offsets = strings.add(names)
    strings.close()
    terms = StringTable(map_bytes(folder / "strings.bin"), offsets)
    return read_bm25(folder, "words", terms, indptr, idf, len(documents))


def test_bm25_ranks_by_rarity_and_ignores_unknown_terms(tmp_path: Path) -> None:
    index = build_bm25([["a", "b"], ["a", "c"], ["a", "c", "c"], []], tmp_path)
    scores = index.scores(["b", "zzz"])
    assert scores.argmax() == 0 and (scores[1:] == 0).all()
    assert index.scores(["a"])[0] < index.scores(["b"])[0]
    assert index.scores(["c"])[2] > index.scores(["c"])[1]
    assert np.array_equal(index.scores(["c", "c"]), index.scores(["c"]))
    assert (index.scores([]) == 0).all() and index.scores(["a"])[3] == 0


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=8), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_bm25_equals_its_formula(documents: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        index = build_bm25(documents, Path(folder))
    mean = max(sum(map(len, documents)) / len(documents), 1e-9)
    every = np.arange(len(documents))
    for term in "abcdefg":
        n = sum(term in document for document in documents)
        idf = np.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
        for number, document in enumerate(documents):
            f = document.count(term)
            norm = f + 1.2 * (0.5 + 0.5 * len(document) / mean)
            expected = idf * f * 2.2 / norm if f else 0.0
            assert index.scores([term])[number] == pytest.approx(expected, rel=1e-5)
        assert np.array_equal(index.scores([term]), index.scores_at([term], every))
        assert index.scores([term]).max() <= index.ideal([term]) * 2  # a scale, not a bound for repeats


@pytest.mark.parametrize("block", [3, 16384])
def test_the_best_are_those_of_the_whole_ranking(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the blocks that it is written in, and where common terms only score again."""
    monkeypatch.setattr("serving.lexical._BLOCK_DOCS", block)
    rng = np.random.default_rng(2)
    documents = [["all", *rng.choice(list("abcdefghij"), 4).tolist()] for _ in range(50)]
    index = build_bm25(documents, tmp_path)
    asked = ["all", "b", "e", "nothing"]
    scores = index.scores(asked)
    ranked = np.lexsort((np.arange(50), -scores))
    assert index.best(asked, 10) == ranked[:10].tolist()
    only = np.arange(0, 50, 3)
    mine = only[np.lexsort((only, -scores[only]))][:5].tolist()
    assert index.best(asked, 5, only) == mine
    rare = sum(("b" in document) + ("e" in document) for document in documents)
    monkeypatch.setattr("serving.lexical.POSTINGS_BUDGET", rare)  # "all" is too common to be added up for everybody
    with_rare = [number for number in ranked.tolist() if {"b", "e"} & set(documents[number])]
    assert index.best(asked, 5) == with_rare[:5]
    assert set(index.best(asked, 5, only)) <= set(only.tolist())


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    index = build_bm25([["a", "b"], ["a"]], tmp_path)
    for name, wrong in (
        ("docs", np.array([0, 1], dtype=np.int32)),
        ("indptr", np.array([0, 3], dtype=np.int64)),
        ("indptr", np.array([0, 3, 2], dtype=np.int64)),
    ):
        with pytest.raises(ValueError, match="fit"):
            replace(index, **{name: wrong})
    np.save(tmp_path / "words_docs.npy", np.array([0, 1, 7], dtype=np.int32))
    with pytest.raises(ValueError, match="fit"):
        read_bm25(tmp_path, "words", index.terms, index.indptr, index.idf, 2)


@pytest.mark.parametrize(
    ("question", "names", "expected"),
    [
        ("피그마로 가능해?", ("Figma", "피그마"), (True, False)),
        ("피그마 말고 다른 거", ("Figma", "피그마"), (True, True)),
        ("노션 대신 쓸 것", ("Notion", "노션"), (True, True)),
        ("something like Jira but lighter", ("Jira",), (True, True)),
        ("Jira feels heavy for us", ("Jira",), (True, True)),
        ("alternative to Adobe Photoshop", ("Adobe Photoshop",), (True, True)),
        ("how do I open a board in jira", ("Jira",), (True, False)),
        ("build a workflow", ("flow",), (False, False)),
        ("워크플로우 자동화", ("플로우",), (False, False)),
        ("google docs로 같이 쓰기", ("GoogleDocs",), (True, False)),
        ("R", ("R",), (False, False)),
    ],
)  # fmt: skip
def test_names(question: str, names: tuple[str, ...], expected: tuple[bool, bool]) -> None:
    assert find_names(question, names) == expected


def test_long_descriptions_are_cut_between_sentences() -> None:
    text = " ".join(f"문장 번호 {number}은 서로 다른 내용을 담고 있습니다." for number in range(60))
    pieces = split_text(text, 200)
    assert all(len(piece) <= 200 and piece.endswith("다.") for piece in pieces)
    assert " ".join(pieces) == text
    assert all(len(piece) <= 50 for piece in split_text("가" * 500, 50))
    assert split_text("  ") == []


def test_every_tool_gives_a_passage() -> None:
    assert [chunk.kind for chunk in chunk_tool(3, Tool("x", "X", ""))] == ["names"]
    kinds = [chunk.kind for chunk in chunk_tool(0, Tool("x", "X", "설명입니다.", description_en="It is."))]
    assert kinds == ["en", "names"]
