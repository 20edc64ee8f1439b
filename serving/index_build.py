"""Builds a version of the search index, puts it in service, and puts the one before back.

Writes `index/<version>/` under a temporary name, fsyncs, renames, records the manifest's sha256 in the log of built
versions, then moves the symlink `index/current`; the versions before stay for rollback. The version's name follows
from catalogue content, embedder and formats: the same input finds the finished folder and only moves the link.
Invariants: `current` always points to a whole, recorded version; a folder that the log does not know is moved aside and
built again, never taken for built. Safe to repeat and to kill at any point; one build at a time (flock).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import orjson

from lake.errors import CatalogError, IndexUnusableError
from lake.files import canonical_json, fsync_dir, require_free_disk, sha256_file, swap_symlink
from lake.index_log import IndexLog
from lake.schemas.rows import Tool
from serving.analysis import analysis_version
from serving.encoders import Encoder
from serving.index_files import (
    FILES,
    INDEX_FORMAT,
    IndexManifest,
    current_version_dir,
    index_log,
    read_manifest,
    verify_files,
)
from serving.index_write import Announce, VersionWriter, silent

KEEP_VERSIONS = 3  # the one in service and two to go back to
_BYTES_A_TOOL = 12_000  # of disk while a version is built: passages, vectors, cache, postings (measured: 9,000)


@contextmanager
def _build_lock(index_dir: Path) -> Iterator[None]:
    index_dir.mkdir(parents=True, exist_ok=True)
    with (index_dir / ".build.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def version_of(tools: Sequence[Tool], encoder: Encoder) -> str:
    """Name of the version that these tools, in this order, and this encoder give."""
    made_by = [INDEX_FORMAT, encoder.name, encoder.revision, encoder.dim, analysis_version()]
    digest = hashlib.sha256(canonical_json(made_by))
    for tool in tools:
        digest.update(canonical_json(tool) + b"\n")
    return f"idx-{digest.hexdigest()[:16]}"


def build_index(
    tools: Sequence[Tool],
    catalog_version: str,
    encoder: Encoder,
    index_dir: Path,
    announce: Announce = silent,
) -> IndexManifest:
    """Build (or find) the version and make it `current`. Raises `CatalogError` on an empty catalogue,
    `IndexUnusableError` where the log of built versions is damaged.

    `announce(stage, total)` gives the progress of each stage.
    """
    if not len(tools):
        raise CatalogError("The catalogue has no usable entry: an index needs at least one tool.")
    version = version_of(tools, encoder)
    log = index_log(index_dir)
    with _build_lock(index_dir):
        log.events()  # a damaged log is said before hours of work, and before a good folder is moved aside
        folder = index_dir / version
        manifest = _finished(folder, log)
        if manifest is None:
            require_free_disk(index_dir, len(tools) * _BYTES_A_TOOL + (50 << 20), "Building the index")
            manifest = _build(tools, catalog_version, encoder, index_dir, version, announce)
            log.add("build", version, sha256_file(folder / "manifest.json"), catalog_version=catalog_version)
        _serve(index_dir, version, log)
        _prune(index_dir, version, log)
    return manifest


def rollback_index(index_dir: Path) -> IndexManifest:
    """Put the version that served before back in service, whatever is left of the present one. Raises
    `IndexUnusableError` where there is none that is whole; nothing is changed then.
    """
    log = index_log(index_dir)
    with _build_lock(index_dir):
        link = index_dir / "current"
        left = link.readlink().name if link.is_symlink() else current_version_dir(index_dir).name
        for version in reversed([one for one in log.served() if one != left]):
            manifest = _usable(index_dir / version, log)
            if manifest is not None:
                swap_symlink(index_dir / "current", index_dir / version)
                log.add("rollback", left, log.built(left), to=version)
                return manifest
    raise IndexUnusableError(
        f"There is no earlier index to go back to from {left}: build another one, python -m flows.index."
    )


def _serve(index_dir: Path, version: str, log: IndexLog) -> None:
    served = log.served()
    swap_symlink(index_dir / "current", index_dir / version)
    if not served or served[-1] != version:
        log.add("serve", version, sha256_file(index_dir / version / "manifest.json"))


def _usable(folder: Path, log: IndexLog) -> IndexManifest | None:
    try:
        manifest = read_manifest(folder, log)
        verify_files(folder, manifest)
    except IndexUnusableError:
        return None
    return manifest


def _finished(folder: Path, log: IndexLog) -> IndexManifest | None:
    """The manifest of a version that is there, recorded and whole; any other folder is moved aside."""
    if not folder.exists():
        return None
    manifest = _usable(folder, log)
    if manifest is None:
        folder.rename(folder.with_name(f"damaged-{folder.name}-{secrets.token_hex(3)}"))
    return manifest


def _build(
    tools: Sequence[Tool], catalog_version: str, encoder: Encoder, index_dir: Path, version: str, announce: Announce,
) -> IndexManifest:  # fmt: skip
    work = index_dir / f".{version}.{secrets.token_hex(4)}.tmp"
    work.mkdir()
    try:
        writer = VersionWriter(work, encoder, index_dir / "cache", announce)
        writer.write(tools)
        assert writer.facts is not None
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
            n_chunks=writer.n_chunks,
            vector_dtype=writer.vector_dtype,
            ann=writer.facts.to_dict(),
            files={name: {"sha256": sha256_file(work / name), "bytes": (work / name).stat().st_size} for name in FILES},
            seconds={name: round(value, 3) for name, value in writer.seconds.items()},
            embedded=writer.embedded,
            reused=writer.n_chunks - writer.embedded,
        )
        option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
        (work / "manifest.json").write_bytes(orjson.dumps(manifest.to_dict(), option=option))
        _sync_folder(work)
        work.rename(index_dir / version)
        fsync_dir(index_dir)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def _sync_folder(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
    fsync_dir(folder)


def _prune(index_dir: Path, in_service: str, log: IndexLog) -> None:
    """Remove all but the versions that served last, leftovers of killed builds and damaged folders of older days."""
    kept = {in_service, *log.served()[-KEEP_VERSIONS:]}
    for path in index_dir.glob("idx-*"):
        if path.name not in kept:
            shutil.rmtree(path, ignore_errors=True)
    for path in index_dir.glob(".idx-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    for path in index_dir.glob("damaged-idx-*"):
        if time.time() - path.stat().st_mtime > 7 * 86400:
            shutil.rmtree(path, ignore_errors=True)
