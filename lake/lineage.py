"""Which dataset was built from which versions of the tables: recorded once, asked by whoever removes old files.

Writes the table `datasets`; reads it and the manifests below `data/datasets/`. Invariant: a dataset version has one
row, however often its build is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from lake.dataset import MANIFEST, Dataset
from lake.errors import CommitConflictError
from lake.files import canonical_json, sha256_file
from lake.location import LakeDir
from lake.tables import append, existing, existing_table, open_table
from lake.withdrawn import withdrawn_versions

_TRIES = 20


def record_dataset(lake_dir: LakeDir, dataset: Dataset, now: datetime, run_id: str | None = None) -> bool:
    """Append the dataset to the table `datasets`; False where it stands there already. `now` is UTC. Safe to retry.

    Raises `IngestError` where the table can't be written.
    """
    manifest = dataset.manifest
    counts = manifest["counts"]
    row = {
        "timestamp": now,
        "version": dataset.version,
        "path": str(dataset.path),
        "manifest_sha256": sha256_file(dataset.path / MANIFEST),
        "run_id": run_id,
        "rows": counts["rows"],
        "train": counts["train"],
        "holdout": counts["holdout"],
        "rejected": counts["rejected"],
        "counts": canonical_json(counts).decode(),
        "lake_versions": canonical_json(manifest["inputs"].get("tables", {})).decode(),
        "seed": manifest["seed"],
    }
    for left in reversed(range(_TRIES)):
        table = open_table(lake_dir, "datasets")
        if existing(table, "version", {dataset.version}):
            return False
        try:
            append(lake_dir, "datasets", [row], table=table)
            return True
        except CommitConflictError:
            if not left:
                raise
    raise AssertionError("unreachable")


@dataclass(frozen=True, slots=True)
class BuiltFrom:
    """The table versions that one dataset names, and when it was built (UTC)."""

    dataset: str
    built: datetime
    versions: dict[str, int]


def datasets_built(lake_dir: LakeDir, datasets_dir: Path) -> list[BuiltFrom]:
    """Every dataset that was not withdrawn: those of the table, and folders that were built before there was one.

    Raises `SetupError` where the table can't be read.
    """
    found: dict[str, BuiltFrom] = {}
    for path in sorted(datasets_dir.glob(f"*/{MANIFEST}")):
        try:
            versions: Any = orjson.loads(path.read_bytes())["inputs"]["tables"]
            built = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            found[path.parent.name] = BuiltFrom(path.parent.name, built, {str(k): int(v) for k, v in versions.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # no dataset that can be read names a version
    table = existing_table(lake_dir, "datasets")
    if table is not None:
        rows: Any = table.to_pyarrow_dataset().to_table(columns=["version", "timestamp", "lake_versions"])
        for row in rows.to_pylist():
            found[row["version"]] = BuiltFrom(row["version"], row["timestamp"], orjson.loads(row["lake_versions"]))
    withdrawn = withdrawn_versions(datasets_dir)
    return [one for version, one in sorted(found.items()) if version not in withdrawn]


def versions_to_keep(built: list[BuiltFrom], table: str, keep_days: float, now: datetime) -> dict[int, list[str]]:
    """Version of `table`: the datasets that name it and were built within `keep_days` before `now` (UTC)."""
    kept: dict[int, list[str]] = {}
    for one in built:
        if table in one.versions and now - one.built <= timedelta(days=keep_days):
            kept.setdefault(one.versions[table], []).append(one.dataset)
    return kept
