"""The index bench in small: it builds, finds that a second build changes nothing, and serves."""

from __future__ import annotations

import faiss
import numpy as np

from serving.chunks import chunk_tool
from tests.bench.index.bench import figures
from tests.bench.index.catalogue import WordEncoder, tools


def test_a_small_build_serves_and_reports_every_figure() -> None:
    found = {figure.figure: figure for figure in figures(1, ["--tools", "300", "--passages", "8"])}
    assert found["300 tools, flat at effort 0: recall@10"].value == 1.0
    assert 0 < found["300 tools, build: peak memory"].value < 8
    assert 0 < found["300 tools, a question within a category, p50"].value < 1000
    assert found["300 tools, the same catalogue again"].value < found["300 tools, build: whole"].value
    assert all(figure.value > 0 for figure in found.values())


def test_the_made_catalogue_is_the_same_each_time_and_any_part_of_it() -> None:
    assert list(tools(20)) == list(tools(50))[:20]
    assert len({tool.id for tool in tools(50)}) == 50


def test_the_stand_in_is_about_as_hard_to_search_as_a_real_encoder() -> None:
    """TwoNN (Facco et al. 2017): the intrinsic dimension from the ratio of the two nearest distances."""
    passages = [chunk.embedded(tool) for tool in tools(1000) for chunk in chunk_tool(0, tool)]
    vectors = WordEncoder().encode_passages(passages)
    squared, _ = faiss.knn(vectors, vectors, 3, metric=faiss.METRIC_L2)
    near, next_near = np.sqrt(np.maximum(squared[:, 1:], 1e-12)).T
    ratios = np.sort(np.log(next_near / near)[near > 1e-4])
    dimension = 1 / ratios[: int(0.9 * len(ratios))].mean()
    assert 8 < dimension < 20
