"""Tables' files wherever they lie: what delta-rs does not do, and how delta-rs and polars are told where to look.

Reads and writes below a `Location`: a commit's own file, and the fsync that delta-rs leaves out of its local store.
On S3 a put is durable once it is answered, and a commit is a put that fails where the file exists (If-None-Match),
so concurrent writers need no lock table; the server must honour that (a test holds it for the one we run).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler

from lake.files import fsync_dir
from lake.location import RETRIES, Location, S3Location

LOG = "_delta_log"


def load(location: Location, version: int | None = None) -> DeltaTable:
    """The table there, at a version (default: the newest). Raises `TableNotFoundError`, `DeltaError`, `OSError`."""
    if isinstance(location, S3Location):
        return DeltaTable(location.uri, version=version, storage_options=dict(location.options))
    return DeltaTable(location, version=version)


def delta_options(location: Location) -> dict[str, str] | None:
    """Storage options of delta-rs."""
    return dict(location.options) if isinstance(location, S3Location) else None


def polars_options(location: Location) -> dict[str, Any] | None:
    """Storage options of polars: as delta-rs's, but it wants a number as a number."""
    return {**location.options, "max_retries": RETRIES} if isinstance(location, S3Location) else None


def file_system(location: Location) -> Any:
    """A pyarrow file system whose root is the location."""
    if isinstance(location, S3Location):
        return pafs.PyFileSystem(DeltaStorageHandler(location.uri, options=dict(location.options)))
    return pafs.SubTreeFileSystem(str(location), pafs.LocalFileSystem())


def commit_name(version: int) -> str:
    """`_delta_log/00000000000000000007.json`."""
    return f"{LOG}/{version:020d}.json"


def read_commit(location: Location, version: int) -> bytes:
    """The actions of a commit, one JSON object a line. Raises `OSError`, also where maintenance removed it."""
    return read_file(location, commit_name(version))


def read_file(location: Location, path: str) -> bytes:
    """The bytes of a file below the location. Raises `OSError`."""
    if isinstance(location, Path):
        return (location / path).read_bytes()
    with file_system(location).open_input_file(path) as handle:
        return handle.read()


def actions(location: Location, version: int, kind: str) -> Iterator[dict[str, Any]]:
    """The actions of one kind (`add`, `remove`, `commitInfo`, ...) of a commit."""
    for line in read_commit(location, version).splitlines():
        if found := orjson.loads(line).get(kind):
            yield found


def transactions(location: Location, version: int) -> dict[str, int]:
    """Every transaction version that the table has at `version`, by application id: all at once, since delta-rs reads
    its log anew for each one that it is asked for. Raises `OSError` where the log has a gap, `ValueError` for damage.
    """
    files = file_system(location)
    names = [one.base_name for one in listed(location, LOG)]
    checkpoints = [int(name.split(".", 1)[0]) for name in names if name.endswith(".checkpoint.parquet")]
    found: dict[str, int] = {}
    start = 0
    if known := [at for at in checkpoints if at <= version]:
        start = max(known) + 1
        with files.open_input_file(f"{LOG}/{start - 1:020d}.checkpoint.parquet") as handle:
            column = pq.read_table(handle, columns=["txn"]).column("txn")
        found = {one["appId"]: one["version"] for one in column.drop_null().to_pylist()}
    for at in range(start, version + 1):
        found.update((one["appId"], one["version"]) for one in actions(location, at, "txn"))
    return found


def paths(table: DeltaTable) -> list[str]:
    """Files of the snapshot, below the table; `file_uris` would give them in the form of URLs."""
    added: Any = pa.table(table.get_add_actions())
    return sorted(unquote(path) for path in added.column("path").to_pylist())


def listed(location: Location, folder: str = "") -> list[Any]:
    """Files below a folder there (path, base_name, size, mtime), at any depth; none where it does not exist."""
    selector = pafs.FileSelector(folder, recursive=True, allow_not_found=True)
    return [one for one in file_system(location).get_file_info(selector) if one.is_file]


def sizes(location: Location) -> dict[str, int]:
    """Path below the location to bytes, of every file there; empty where there is none."""
    return {one.path: one.size or 0 for one in listed(location)}


def make_durable(location: Location, version: int) -> None:
    """fsync what a commit added, and its checkpoint: delta-rs renames into place but never syncs (measured).

    Raises `OSError`.
    """
    if isinstance(location, S3Location):
        return
    files = {location / unquote(added["path"]) for added in actions(location, version, "add")}
    files.add(location / commit_name(version))
    folders = {location, location / LOG, *(file.parent for file in files)}
    for file in files:
        _fsync(file)
    for file in (location / LOG).glob(f"{version:020d}.checkpoint*"):
        _fsync(file)
        with suppress(FileNotFoundError):
            _fsync(location / LOG / "_last_checkpoint")
    for folder in folders:
        fsync_dir(folder)


def _fsync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
