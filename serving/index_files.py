"""The search index as it is loaded: tools, passages, vectors, FAISS, BM25, one checked folder a version.

Reads `index/current` -> `index/<version>/`: manifest.json, tools.jsonl, chunks.jsonl, vectors.npy,
faiss.index, lexical.npz, lexical_terms.json. Invariant: every file's sha256 is compared with the manifest
before anything in it is parsed; only the named files are read, only inside the index folder; an index of
another embedder is refused. `serving/index_build.py` writes it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from lake.errors import IndexUnusableError
from lake.files import sha256_file
from lake.schemas.rows import Tool
from serving.analysis import analysis_version
from serving.ann import AnnFacts, read_ann, search_ann
from serving.chunks import Chunk
from serving.encoders import Encoder
from serving.index_facets import Facets, Positions, facets_of
from serving.lexical import Bm25, bm25_from_arrays

INDEX_FORMAT = "index-1"
FILES = ("tools.jsonl", "chunks.jsonl", "vectors.npy", "faiss.index", "lexical.npz", "lexical_terms.json")
_REBUILD = "Rebuild it: python -m flows.index"


@dataclass(frozen=True)
class IndexManifest:
    """What a version was made of; `version` names its folder and follows from the content."""

    format: str
    version: str
    created: str  # ISO 8601, UTC
    catalog_version: str
    embedder: str
    embedder_revision: str
    dim: int
    analysis: str  # what made the lexical terms
    n_tools: int
    n_chunks: int
    ann: dict[str, Any]
    files: dict[str, dict[str, Any]]  # name -> {"sha256", "bytes"}
    seconds: dict[str, float]  # by stage
    embedded: int  # passages embedded in this build; the others came from the cache
    reused: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ToolIndex:
    """One loaded version; immutable and safe to share between threads."""

    manifest: IndexManifest
    tools: list[Tool]
    chunks: list[Chunk]
    chunk_start: NDArray[np.int64]  # [n_tools + 1]: passages of tool i are chunk_start[i]:chunk_start[i + 1]
    vectors: NDArray[np.float32]  # [n_chunks, dim], mapped from disk
    ann: Any
    words: Bm25
    grams: Bm25
    facets: Facets

    @property
    def version(self) -> str:
        return self.manifest.version

    def require_encoder(self, encoder: Encoder) -> None:
        """Raises `IndexUnusableError` where the vectors were made by another encoder or revision."""
        made_by = (self.manifest.embedder, self.manifest.embedder_revision, self.manifest.dim)
        asked = (encoder.name, encoder.revision, encoder.dim)
        if made_by != asked:
            raise IndexUnusableError(
                f"The index was made with the embedder {made_by[0]} ({made_by[1]}), the service uses {asked[0]} "
                f"({asked[1]}). {_REBUILD}, or set MULLE_EMBEDDER={made_by[0]}.",
                index=made_by[0],
                service=asked[0],
            )

    def dense(
        self, query: NDArray[np.float32], k: int, only: Positions | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(passage numbers, cosines) of the `k` passages nearest to `query`, float32 [dim]; `only`: of these
        tools.
        """
        rows = None if only is None else self.passages_of(only)
        return search_ann(self.ann, self.vectors, query, k, exact=self.manifest.ann["kind"] == "flat", only=rows)

    def passages_of(self, positions: Positions) -> Positions:
        """Passage numbers of the tools at rising `positions`, rising."""
        sizes = self.chunk_start[positions + 1] - self.chunk_start[positions]
        offsets = np.repeat(self.chunk_start[positions] - (np.cumsum(sizes) - sizes), sizes)
        return offsets + np.arange(len(offsets))


def current_version_dir(index_dir: Path) -> Path:
    """The folder that `current` points to; raises `IndexUnusableError` where there is none inside
    `index_dir`.
    """
    link = index_dir / "current"
    if not link.exists():
        raise IndexUnusableError(f"There is no search index at {link}. Build it: python -m flows.index")
    folder = link.resolve()
    if folder.parent != index_dir.resolve():
        raise IndexUnusableError(f"{link} points outside {index_dir}: remove it. {_REBUILD}.")
    return folder


def read_manifest(folder: Path) -> IndexManifest:
    """The manifest alone; raises `IndexUnusableError` where it is missing or of another format."""
    try:
        manifest = IndexManifest(**orjson.loads((folder / "manifest.json").read_bytes()))
    except (OSError, orjson.JSONDecodeError, TypeError) as error:
        raise IndexUnusableError(f"{folder / 'manifest.json'} can't be read ({error}). {_REBUILD}.") from error
    if manifest.format != INDEX_FORMAT:
        raise IndexUnusableError(f"{folder} has the format {manifest.format}, not {INDEX_FORMAT}. {_REBUILD}.")
    if manifest.analysis != analysis_version():
        raise IndexUnusableError(
            f"{folder} has the terms of {manifest.analysis}, this is {analysis_version()}. {_REBUILD}."
        )
    return manifest


def verify_files(folder: Path, manifest: IndexManifest) -> None:
    """Compare every file with its sha256; raises `IndexUnusableError` naming the first that differs."""
    if set(manifest.files) != set(FILES):
        raise IndexUnusableError(f"{folder / 'manifest.json'} names other files than an index has. {_REBUILD}.")
    for name in FILES:
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise IndexUnusableError(f"{path} is missing or not a plain file. {_REBUILD}.", file=name)
        if sha256_file(path) != manifest.files[name]["sha256"]:
            raise IndexUnusableError(f"{path} does not have the sha256 of its manifest. {_REBUILD}.", file=name)


def load_version(folder: Path) -> ToolIndex:
    """Load one version folder. Raises `IndexUnusableError`; safe to retry."""
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    try:
        tools = [_tool(orjson.loads(line)) for line in (folder / "tools.jsonl").read_bytes().splitlines()]
        chunks = [Chunk(**orjson.loads(line)) for line in (folder / "chunks.jsonl").read_bytes().splitlines()]
        vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        terms = orjson.loads((folder / "lexical_terms.json").read_bytes())
        with np.load(folder / "lexical.npz", allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        words, grams = (
            bm25_from_arrays(terms[kind], {key: arrays[f"{kind}_{key}"] for key in _ARRAYS}, len(tools))
            for kind in ("words", "grams")
        )
        ann = read_ann(folder / "faiss.index", AnnFacts(**manifest.ann))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise IndexUnusableError(f"{folder} can't be read ({error}). {_REBUILD}.") from error
    start = chunk_bounds(chunks, len(tools))
    sizes_fit = (
        len(tools) == manifest.n_tools
        and vectors.shape == (manifest.n_chunks, manifest.dim)
        and len(chunks) == manifest.n_chunks == ann.ntotal
        and ann.d == manifest.dim
    )
    if not sizes_fit:
        raise IndexUnusableError(f"The files of {folder} do not fit together. {_REBUILD}.")
    return ToolIndex(manifest, tools, chunks, start, vectors, ann, words, grams, facets_of(tools))


_ARRAYS = ("indptr", "docs", "impacts", "idf")


def load_index(index_dir: Path) -> ToolIndex:
    """The index in service. Raises `IndexUnusableError`."""
    return load_version(current_version_dir(index_dir))


def _tool(row: dict[str, Any]) -> Tool:
    return Tool(**{**row, "tags": tuple(row["tags"]), "aliases": tuple(row["aliases"])})


def chunk_bounds(chunks: list[Chunk], n_tools: int) -> NDArray[np.int64]:
    """int64 [n_tools + 1]; raises `IndexUnusableError` where passages are not in the order of their tools."""
    owners = np.array([chunk.tool for chunk in chunks], dtype=np.int64)
    ordered = len(owners) == 0 or bool((np.diff(owners) >= 0).all() and owners[0] >= 0 and owners[-1] < n_tools)
    if not ordered:
        raise IndexUnusableError(f"The passages of the index are out of order. {_REBUILD}.")
    return np.searchsorted(owners, np.arange(n_tools + 1)).astype(np.int64)
