"""The search index as it is loaded: tools, passages, vectors, FAISS, BM25, one checked folder a version.

Reads `index/current` -> `index/<version>/`: the manifest and `FILES`. Invariant: the manifest must be the one that the
log of built versions records (`lake/index_log.py`), and every file's sha256 is compared with the manifest, before
anything in them is parsed; only the named files are read, only inside the index folder; an index of another embedder
is refused. Large files are mapped, not read: 900,000 tools open in the time of hashing them, and cost memory only
where questions touch them. `serving/index_write.py` writes it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from lake.errors import IndexUnusableError
from lake.files import sha256_bytes, sha256_file
from lake.index_log import IndexLog
from lake.tool_table import ToolTable
from serving.analysis import analysis_version
from serving.ann import AnnFacts, read_ann, search_ann
from serving.encoders import Encoder
from serving.index_facets import Facets, Positions, read_facets
from serving.lexical import Bm25, read_bm25
from serving.mapped import StringTable, map_array, map_bytes
from serving.passages import PassageTable

INDEX_FORMAT = "index-2"
FILES = (
    "tools.arrow", "passages.arrow", "vectors.npy", "faiss.index", "words_docs.npy", "words_impacts.npy",
    "grams_docs.npy", "grams_impacts.npy", "strings.bin", "arrays.npz",
)  # fmt: skip
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
    vector_dtype: str  # float32, float16 in a large index
    ann: dict[str, Any]  # `AnnFacts`: kind, effort, measured recall, what was tried
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
    tools: ToolTable
    chunks: PassageTable
    chunk_start: NDArray[np.int64]  # [n_tools + 1]: passages of tool i are chunk_start[i]:chunk_start[i + 1]
    chunk_kind: NDArray[np.int8]  # [n_chunks]: place in `serving.chunks.KINDS`
    vectors: NDArray[Any]  # [n_chunks, dim], mapped from disk
    ann: Any
    words: Bm25
    grams: Bm25
    facets: Facets
    category_means: NDArray[np.float32]  # [m, dim], length 1
    mean_of: NDArray[np.int32]  # row of `category_means` of each of the facets' categories

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
        """Passage numbers of the tools at `positions`, tool by tool."""
        sizes = self.chunk_start[positions + 1] - self.chunk_start[positions]
        offsets = np.repeat(self.chunk_start[positions] - (np.cumsum(sizes) - sizes), sizes)
        return offsets + np.arange(len(offsets))

    def owners_of(self, rows: NDArray[np.int64]) -> Positions:
        """Position of the tool of each passage."""
        return np.searchsorted(self.chunk_start, rows, side="right") - 1


def index_log(index_dir: Path) -> IndexLog:
    """The log of built versions, beside them."""
    return IndexLog(index_dir / "log.jsonl")


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


def read_manifest(folder: Path, log: IndexLog) -> IndexManifest:
    """The manifest alone. Raises `IndexUnusableError` where `log` does not know it (nothing is parsed then), or where
    it is missing, of another format or with other terms.
    """
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise IndexUnusableError(f"{path} can't be read ({error.strerror or error}). {_REBUILD}.") from error
    if not log.knows(folder.name, sha256_bytes(data)):
        raise IndexUnusableError(
            f"{folder} is not an index that {log.path} records: it was changed, or built elsewhere. {_REBUILD}.",
            version=folder.name,
        )
    try:
        manifest = IndexManifest(**orjson.loads(data))
    except (orjson.JSONDecodeError, TypeError) as error:
        raise IndexUnusableError(f"{path} can't be read ({error}). {_REBUILD}.") from error
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


def load_version(folder: Path, log: IndexLog) -> ToolIndex:
    """Load one version folder. Raises `IndexUnusableError`; safe to retry."""
    manifest = read_manifest(folder, log)
    verify_files(folder, manifest)
    try:
        index = _open(folder, manifest)
    except (OSError, ValueError, TypeError, KeyError, IndexError, RuntimeError, pa.ArrowException) as error:
        raise IndexUnusableError(f"{folder} can't be read ({error}). {_REBUILD}.") from error
    sizes_fit = (
        len(index.tools) == manifest.n_tools
        and index.vectors.shape == (manifest.n_chunks, manifest.dim)
        and len(index.chunks) == manifest.n_chunks == index.ann.ntotal
        and index.ann.d == manifest.dim == index.category_means.shape[1]
        and len(index.mean_of) == len(index.facets.categories)
        and int(index.mean_of.max(initial=0)) < len(index.category_means)
    )
    if not sizes_fit:
        raise IndexUnusableError(f"The files of {folder} do not fit together. {_REBUILD}.")
    return index


def _open(folder: Path, manifest: IndexManifest) -> ToolIndex:
    with np.load(folder / "arrays.npz", allow_pickle=False) as stored:
        arrays: dict[str, NDArray[Any]] = {name: stored[name] for name in stored.files}
    strings = map_bytes(folder / "strings.bin")
    words, grams = (
        read_bm25(
            folder,
            kind,
            StringTable(strings, arrays[f"{kind}_terms"]),
            arrays[f"{kind}_indptr"],
            arrays[f"{kind}_idf"],
            manifest.n_tools,
        )
        for kind in ("words", "grams")
    )
    return ToolIndex(
        manifest=manifest,
        tools=ToolTable(folder / "tools.arrow"),
        chunks=PassageTable(folder / "passages.arrow", arrays["chunk_start"], arrays["chunk_kind"]),
        chunk_start=arrays["chunk_start"],
        chunk_kind=arrays["chunk_kind"],
        vectors=map_array(folder / "vectors.npy"),
        ann=read_ann(folder / "faiss.index", AnnFacts(**manifest.ann)),
        words=words,
        grams=grams,
        facets=read_facets(strings, arrays, manifest.n_tools),
        category_means=arrays["category_means"],
        mean_of=arrays["mean_of"],
    )


def load_index(index_dir: Path) -> ToolIndex:
    """The index in service. Raises `IndexUnusableError`."""
    return load_version(current_version_dir(index_dir), index_log(index_dir))
