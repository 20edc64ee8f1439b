"""Dataset versions in the lake: a row of `datasets` each, and their rejects and retrieval failures.

Reads version folders, writes the tables datasets, rejects (stage `build`) and retrieval_failures; the rows' `run_id`
is the dataset version, so that a reject leads to its dataset. Invariant: a version is recorded once, by whatever build
comes next if its own was killed; its row in `datasets` is written last, so where it stands the others do too.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa

from lake.dataset import MANIFEST, Dataset
from lake.files import read_json
from lake.lineage import record_dataset
from lake.location import LakeDir
from lake.tables import append, scan, to_arrow
from lake.withdrawn import is_withdrawn

_ROWS_A_STEP = 50_000


def record_datasets(lake_dir: LakeDir, datasets_dir: Path, run_id: str | None = None) -> list[str]:
    """Record every version that is not yet; their names. Safe to retry, not to run twice at once (a build's lock)."""
    known = set(scan(lake_dir, "datasets").select("version").collect()["version"].to_list())
    found: list[str] = []
    for manifest in sorted(datasets_dir.glob(f"*/{MANIFEST}")):
        folder = manifest.parent
        if folder.name not in known and not folder.name.startswith(".") and not is_withdrawn(folder):
            _record(lake_dir, folder, run_id)
            found.append(folder.name)
    return found


def _record(lake_dir: LakeDir, folder: Path, run_id: str | None) -> None:
    now = datetime.now(UTC)
    for table, file, extra in (
        ("rejects", "rejects.jsonl", {"stage": "build"}),
        ("retrieval_failures", "retrieval_failures.jsonl", {}),
    ):
        if (folder / file).exists() and not _noted(lake_dir, table, folder.name, extra):
            common = {"timestamp": now, "run_id": folder.name, **extra}
            _append(lake_dir, table, folder / file, common)
    dataset = Dataset(folder.name, folder, read_json(folder / MANIFEST))
    record_dataset(lake_dir, dataset, now, run_id)


def _noted(lake_dir: LakeDir, table: str, version: str, extra: dict[str, str]) -> bool:
    rows = scan(lake_dir, table).filter(pl.col("run_id") == version)
    for name, value in extra.items():
        rows = rows.filter(pl.col(name) == value)
    return not rows.select("run_id").head(1).collect().is_empty()


def _append(lake_dir: LakeDir, table: str, file: Path, common: dict[str, Any]) -> None:
    """All lines of `file` in one commit."""
    parts = [to_arrow(table, [{**line, **common} for line in lines]) for lines in _lines(file)]
    if parts:
        append(lake_dir, table, pa.concat_tables(parts))


def _lines(file: Path) -> Iterator[list[dict[str, Any]]]:
    held: list[dict[str, Any]] = []
    with file.open("rb") as handle:
        for line in handle:
            held.append(orjson.loads(line))
            if len(held) == _ROWS_A_STEP:
                yield held
                held = []
    if held:
        yield held
