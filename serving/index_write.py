"""Writes the files of one index version into a folder, stage by stage, without holding the catalogue in memory.

Each stage passes once over the tools: rows (tools, passages, facets), embed (vectors, means of the categories),
lexical (two BM25), faiss. Invariant: memory does not grow with the number of tools beyond some small arrays, the
terms and the FAISS index; what a stage wrote is complete when it ends.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lake.progress import Progress, timed
from lake.schemas.rows import Tool
from lake.tool_table import ToolTable, blocks, write_tools
from serving.analysis import ngrams, words_of_each
from serving.ann import AnnFacts, build_ann, stored_dtype, write_ann
from serving.chunks import KINDS, Chunk, chunk_tool
from serving.encoders import Encoder
from serving.index_facets import FacetWriter
from serving.index_queries import realistic_questions
from serving.lexical import write_bm25
from serving.mapped import StringWriter, map_array
from serving.passages import write_passages
from serving.vector_cache import VectorCache

SAMPLED_QUERIES = 200
MAX_CATEGORY_MEANS = 10_000  # rarer categories share one mean: 900,000 of their own would cost 1.4 GB
_BLOCK_TOOLS = 2048

Announce = Callable[[str, int], Progress]


def silent(stage: str, total: int) -> Progress:
    """Progress that nobody sees."""
    return Progress(None, stage, total)


def index_texts(tool: Tool) -> list[str]:
    """All texts of a tool that the lexical index sees, each once."""
    names = " ".join([tool.name, *tool.aliases, *tool.tags, tool.category])
    return list(
        dict.fromkeys(text for text in (names, tool.description_ko, tool.description_en, tool.description) if text)
    )


class VersionWriter:
    """One build into `folder`. After `write` the counts and `facts` hold what the manifest says."""

    def __init__(self, folder: Path, encoder: Encoder, cache_dir: Path, announce: Announce = silent) -> None:
        self._folder = folder
        self._encoder = encoder
        self._cache_dir = cache_dir
        self._announce = announce
        self._arrays: dict[str, NDArray[Any]] = {}
        self.seconds: dict[str, float] = {}
        self.n_chunks = 0
        self.embedded = 0
        self.vector_dtype = ""
        self.facts: AnnFacts | None = None

    def write(self, tools: Sequence[Tool]) -> None:
        """All files but the manifest."""
        with closing(StringWriter(self._folder / "strings.bin")) as strings:
            with timed(self.seconds, "rows"):
                self._rows(tools, strings)
            stored = ToolTable(self._folder / "tools.arrow")
            with timed(self.seconds, "embed"):
                self._embed(stored)
            with timed(self.seconds, "lexical"):
                self._lexical(stored, strings)
        with timed(self.seconds, "faiss"):
            self._faiss(stored)
        np.savez(self._folder / "arrays.npz", allow_pickle=False, **self._arrays)

    def _rows(self, tools: Sequence[Tool], strings: StringWriter) -> None:
        facets = FacetWriter()
        sizes, kinds = array("i"), array("b")
        bar = self._announce("rows", len(tools))

        def counted() -> Iterator[Tool]:
            for tool in tools:
                facets.add(tool)
                bar.advance()
                yield tool

        def texts(rows: Iterable[Tool]) -> Iterator[str]:
            for tool in rows:
                chunks = chunk_tool(0, tool)
                sizes.append(len(chunks))
                kinds.extend(KINDS.index(chunk.kind) for chunk in chunks)
                yield from (chunk.text for chunk in chunks)

        write_tools(self._folder / "tools.arrow", counted())
        self.n_chunks = write_passages(self._folder / "passages.arrow", texts(ToolTable(self._folder / "tools.arrow")))
        bar.finish()
        self._arrays |= facets.write(strings)
        self._arrays["chunk_start"] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._arrays["chunk_kind"] = np.array(kinds, dtype=np.int8)

    def _embed(self, tools: ToolTable) -> None:
        cache = VectorCache(self._cache_dir, self._encoder)
        bar = self._announce("embed", self.n_chunks)
        category_of = self._arrays["category_of"]
        mean_of, n_means = _shared_means(category_of)
        sums = np.zeros((n_means, self._encoder.dim))
        self.vector_dtype = stored_dtype(self.n_chunks)
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(self.vector_dtype)),
            "fortran_order": False,
            "shape": (self.n_chunks, self._encoder.dim),
        }
        first = 0
        with (self._folder / "vectors.npy").open("wb") as handle:
            np.lib.format.write_array_header_1_0(handle, header)
            for block in blocks(tools, _BLOCK_TOOLS):
                chunks: list[Chunk] = [chunk for place, tool in enumerate(block) for chunk in chunk_tool(place, tool)]
                passages = [chunk.embedded(block[chunk.tool]) for chunk in chunks]
                vectors, embedded = cache.encode(passages, bar.advance)
                self.embedded += embedded
                handle.write(vectors.astype(self.vector_dtype).tobytes())
                owners = first + np.array([chunk.tool for chunk in chunks])
                _add_rows(sums, mean_of[category_of[owners]], vectors)
                first += len(block)
        bar.finish()
        lengths = np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        self._arrays |= {"category_means": (sums / lengths).astype(np.float32), "mean_of": mean_of}

    def _lexical(self, tools: ToolTable, strings: StringWriter) -> None:
        def counted(kind: str) -> Iterator[list[str]]:
            bar = self._announce(kind, len(tools))
            for tool in tools:
                bar.advance()
                yield index_texts(tool)
            bar.finish()

        documents = {
            "words": words_of_each(counted("words")),
            "grams": (ngrams(" ".join(texts)) for texts in counted("grams")),
        }
        for kind, terms_of_each in documents.items():
            names, indptr, idf = write_bm25(terms_of_each, self._folder, kind)
            self._arrays |= {f"{kind}_terms": strings.add(names), f"{kind}_indptr": indptr, f"{kind}_idf": idf}

    def _faiss(self, tools: ToolTable) -> None:
        vectors = map_array(self._folder / "vectors.npy")
        bar = self._announce("faiss", self.n_chunks)
        # A small index is searched exactly: nothing to measure.
        questions = realistic_questions(tools, SAMPLED_QUERIES) if self.vector_dtype != "float32" else []
        ann, self.facts = build_ann(vectors, self._encoder.encode_queries(questions))
        write_ann(ann, self._folder / "faiss.index")
        bar.advance(self.n_chunks)
        bar.finish()


def _shared_means(category_of: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """(mean's number of each category, how many means): the largest have their own, the others share the last."""
    sizes = np.bincount(category_of)
    mean_of = np.full(len(sizes), MAX_CATEGORY_MEANS, dtype=np.int32)
    largest = np.sort(np.argsort(-sizes, kind="stable")[:MAX_CATEGORY_MEANS])
    mean_of[largest] = np.arange(len(largest))
    return mean_of, int(mean_of.max()) + 1


def _add_rows(sums: NDArray[np.float64], groups: NDArray[np.int32], vectors: NDArray[np.float32]) -> None:
    order = np.argsort(groups, kind="stable")
    seen, starts = np.unique(groups[order], return_index=True)
    sums[seen] += np.add.reduceat(vectors[order], starts, axis=0, dtype=np.float64)
