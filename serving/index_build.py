"""Builds a version of the search index and puts it in service.

Writes `index/<version>/` under a temporary name, fsyncs, renames, then moves the symlink `index/current`; the
versions before stay for rollback. The version's name follows from catalogue content, embedder and formats:
the same input finds the finished folder and only moves the link. Invariant: `current` always points to a
whole, verified version. Safe to repeat and to kill at any point; one build at a time (flock).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from lake.errors import CatalogError, IndexUnusableError
from lake.files import canonical_json, fsync_dir, require_free_disk, sha256_bytes, sha256_file, swap_symlink
from lake.progress import timed
from lake.schemas.rows import Tool
from serving.analysis import analysis_version, ngrams, words
from serving.ann import build_ann, write_ann
from serving.chunks import Chunk, chunk_tools
from serving.encoders import Encoder
from serving.index_files import FILES, INDEX_FORMAT, IndexManifest, read_manifest, verify_files
from serving.lexical import build_bm25
from serving.vector_cache import VectorCache

KEEP_VERSIONS = 3  # the one in service and two to go back to
SAMPLED_QUERIES = 200

ProgressHook = Callable[[int], None]


@contextmanager
def _build_lock(index_dir: Path) -> Iterator[None]:
    index_dir.mkdir(parents=True, exist_ok=True)
    with (index_dir / ".build.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def index_text(tool: Tool) -> str:
    """All text of a tool that the lexical index sees."""
    names = [tool.name, *tool.aliases]
    texts = dict.fromkeys([tool.description_ko, tool.description_en, tool.description])
    return " ".join([*names, *tool.tags, tool.category, *texts])


def version_of(tools: Sequence[Tool], encoder: Encoder) -> str:
    """Name of the version that these tools and this encoder give."""
    made_by = [INDEX_FORMAT, encoder.name, encoder.revision, encoder.dim, analysis_version()]
    facts = [made_by, [asdict(tool) for tool in tools]]
    return f"idx-{sha256_bytes(canonical_json(facts))[:16]}"


def build_index(
    tools: Sequence[Tool],
    catalog_version: str,
    encoder: Encoder,
    index_dir: Path,
    on_progress: ProgressHook = lambda _: None,
) -> IndexManifest:
    """Build (or find) the version and make it `current`. Raises `CatalogError` on an empty catalogue.

    `on_progress` is called with the number of passages done since the last call; there are about three a
    tool.
    """
    if not tools:
        raise CatalogError("The catalogue has no usable entry: an index needs at least one tool.")
    version = version_of(tools, encoder)
    with _build_lock(index_dir):
        folder = index_dir / version
        manifest = _finished(folder)
        if manifest is None:
            require_free_disk(index_dir, len(tools) * 3 * encoder.dim * 12 + (50 << 20), "Building the index")
            manifest = _build(tools, catalog_version, encoder, index_dir, version, on_progress)
        swap_symlink(index_dir / "current", folder)
        _prune(index_dir, version)
    return manifest


def _finished(folder: Path) -> IndexManifest | None:
    """The manifest of a version that is there and whole; a damaged one is moved aside and built again."""
    if not folder.exists():
        return None
    try:
        manifest = read_manifest(folder)
        verify_files(folder, manifest)
    except IndexUnusableError:
        folder.rename(folder.with_name(f"damaged-{folder.name}-{secrets.token_hex(3)}"))
        return None
    return manifest


def _build(
    tools: Sequence[Tool], catalog_version: str, encoder: Encoder, index_dir: Path, version: str,
    on_progress: ProgressHook,
) -> IndexManifest:  # fmt: skip
    seconds: dict[str, float] = {}
    work = index_dir / f".{version}.{secrets.token_hex(4)}.tmp"
    work.mkdir()
    try:
        with timed(seconds, "chunk"):
            chunks = chunk_tools(tools)
        with timed(seconds, "embed"):
            cache = VectorCache(index_dir / "cache", encoder)
            vectors, embedded = cache.encode([chunk.passage for chunk in chunks], on_progress)
            np.save(work / "vectors.npy", vectors, allow_pickle=False)
        with timed(seconds, "faiss"):
            step = max(1, len(tools) // SAMPLED_QUERIES)
            big = len(chunks) > 1000  # a small index is searched exactly: nothing to measure
            queries = [tool.name for tool in tools[::step]][:SAMPLED_QUERIES] if big else []
            ann, facts = build_ann(vectors, encoder.encode_queries(queries))
            write_ann(ann, work / "faiss.index")
        with timed(seconds, "lexical"):
            _write_lexical(work, tools)
        _write_rows(work, tools, chunks)
        manifest = IndexManifest(
            format=INDEX_FORMAT,
            version=version,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            catalog_version=catalog_version,
            embedder=encoder.name,
            embedder_revision=encoder.revision,
            dim=encoder.dim,
            analysis=analysis_version(),
            n_tools=len(tools),
            n_chunks=len(chunks),
            ann=facts.to_dict(),
            files={name: {"sha256": sha256_file(work / name), "bytes": (work / name).stat().st_size} for name in FILES},
            seconds={name: round(value, 3) for name, value in seconds.items()},
            embedded=embedded,
            reused=len(chunks) - embedded,
        )
        option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
        (work / "manifest.json").write_bytes(orjson.dumps(manifest.to_dict(), option=option))
        _sync_folder(work)
        work.rename(index_dir / version)
        fsync_dir(index_dir)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def _write_lexical(work: Path, tools: Sequence[Tool]) -> None:
    texts = [index_text(tool) for tool in tools]
    arrays: dict[str, Any] = {}
    terms: dict[str, list[str]] = {}
    for kind, analyse in (("words", words), ("grams", ngrams)):
        bm25 = build_bm25(analyse(text) for text in texts)
        terms[kind] = list(bm25.vocabulary)
        arrays.update({f"{kind}_{key}": value for key, value in bm25.arrays().items()})
    np.savez(work / "lexical.npz", allow_pickle=False, **arrays)
    (work / "lexical_terms.json").write_bytes(orjson.dumps(terms))


def _write_rows(work: Path, tools: Sequence[Tool], chunks: Sequence[Chunk]) -> None:
    for name, rows in (("tools.jsonl", tools), ("chunks.jsonl", chunks)):
        with (work / name).open("wb") as handle:
            for row in rows:
                handle.write(orjson.dumps(asdict(row), option=orjson.OPT_APPEND_NEWLINE))


def _sync_folder(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
    fsync_dir(folder)


def _prune(index_dir: Path, in_service: str) -> None:
    """Remove all but the newest versions, leftovers of killed builds and damaged folders of older days."""
    versions = sorted(index_dir.glob("idx-*"), key=lambda path: path.stat().st_mtime, reverse=True)
    kept = [path for path in versions if path.name != in_service][: KEEP_VERSIONS - 1]
    for path in versions:
        if path.name != in_service and path not in kept:
            shutil.rmtree(path, ignore_errors=True)
    for path in index_dir.glob(".idx-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    for path in index_dir.glob("damaged-idx-*"):
        if time.time() - path.stat().st_mtime > 7 * 86400:
            shutil.rmtree(path, ignore_errors=True)
