"""A table's log: what its commits were, and taking the old ones away without losing a version that is needed.

Reads and removes files below `<table>/_delta_log`. Invariants: a commit goes only where a checkpoint at or below
every version that must stay readable was read back just before; what goes is older than that checkpoint. Safe
beside readers and writers of newer versions, to kill anywhere and to repeat.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lake.location import Location
from lake.storage import LOG, file_system, listed

_NUMBERED = re.compile(r"^(\d{20})\.(json|checkpoint\.parquet|crc)$")
_LEFTOVER = re.compile(r"\.(tmp|broken)$|#\d+$")
_REWRITES = frozenset({"DELETE", "UPDATE", "MERGE", "RESTORE", "REPLACE TABLE"})
_SETTLED = timedelta(hours=1)  # a reader that listed the log before a checkpoint was there reads the commits instead
CHECKPOINT_EVERY = 10  # commits, for maintenance; delta-rs makes one every 100 by itself


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file of a log; `version` is None for what a killed writer left."""

    path: str  # below the table
    version: int | None
    kind: str
    bytes: int
    time: datetime


def log_files(location: Location) -> list[LogFile]:
    """The numbered files of the log, and leftovers."""
    found: list[LogFile] = []
    for one in listed(location, LOG):
        match = _NUMBERED.match(one.base_name)
        if one.path != f"{LOG}/{one.base_name}" or not (match or _LEFTOVER.search(one.base_name)):
            continue
        time = datetime.fromtimestamp((one.mtime_ns or 0) / 1e9, UTC)
        version, kind = (int(match[1]), match[2]) if match else (None, "leftover")
        found.append(LogFile(f"{LOG}/{one.base_name}", version, kind, one.size or 0, time))
    return found


def last_rewrite(table: DeltaTable) -> int:
    """The newest version that took rows away (an erasure); 0 where none did. Older versions may hold those rows."""
    for commit in table.history():
        operation, parameters = str(commit.get("operation", "")).upper(), commit.get("operationParameters") or {}
        if operation in _REWRITES or (operation == "WRITE" and parameters.get("mode") == "Overwrite"):
            return int(commit["version"])
    return 0


def needs_checkpoint(location: Location, version: int) -> bool:
    """Whether `CHECKPOINT_EVERY` commits or more follow the last checkpoint."""
    checkpoints = [one.version or 0 for one in log_files(location) if one.kind == "checkpoint.parquet"]
    return version - max(checkpoints, default=-1) > CHECKPOINT_EVERY


def old_files(location: Location, newest: int, keep_days: float, keep: Collection[int], now: datetime) -> list[LogFile]:
    """What may go: no version of `keep`, none made within `keep_days` before `now` (UTC), needs it."""
    files, cutoff = log_files(location), now - timedelta(days=keep_days)
    young = [one.version for one in files if one.kind == "json" and one.version is not None and one.time >= cutoff]
    oldest = min([*young, *keep, newest])
    checkpoints = [
        one
        for one in files
        if one.kind == "checkpoint.parquet" and (one.version or 0) <= oldest and now - one.time > _SETTLED
    ]
    start = max((one.version or 0 for one in checkpoints if _is_whole(location, one.path)), default=0)
    gone = [one for one in files if one.version is not None and one.version < start]
    gone += [one for one in files if one.version is None and one.time < cutoff]
    return sorted(gone, key=lambda one: (one.version is None, one.version, one.path))


def _is_whole(location: Location, path: str) -> bool:
    """Whether the checkpoint says the table's protocol and schema, and every page of it can be read."""
    try:
        with file_system(location).open_input_file(path) as handle:
            table: Any = pq.read_table(handle)
        return all(table.column(name).null_count < table.num_rows for name in ("protocol", "metaData"))
    except (OSError, KeyError, pa.ArrowException):
        return False


def remove(location: Location, files: Collection[LogFile]) -> None:
    """Delete them, oldest first. Raises `OSError` where one can't be."""
    system = file_system(location)
    for one in files:
        with suppress(FileNotFoundError):  # another run was first
            system.delete_file(one.path)
