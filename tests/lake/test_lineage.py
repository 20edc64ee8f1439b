"""Which datasets need which versions of the tables."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

from lake.dataset import Dataset
from lake.files import sha256_file
from lake.lineage import datasets_built, record_dataset, versions_to_keep
from lake.tables import scan
from lake.withdrawn import withdraw

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def dataset(folder: Path, version: str, **versions: int) -> Dataset:
    counts = {"rows": 3, "train": 2, "holdout": 1, "clusters": 3, "rejected": 4}
    manifest: dict[str, Any] = {"version": version, "counts": counts, "inputs": {"tables": versions}, "seed": 7}
    path = folder / version
    path.mkdir(parents=True)
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))
    return Dataset(version, path, manifest)


def test_a_dataset_is_recorded_once_however_often_it_is_built(tmp_path: Path) -> None:
    built = dataset(tmp_path / "datasets", "aa", requests=5, reviews=2)
    with ThreadPoolExecutor(4) as pool:
        recorded = list(pool.map(lambda _: record_dataset(tmp_path / "lake", built, NOW, "run-1"), range(4)))
    assert sorted(recorded) == [False, False, False, True]
    (row,) = scan(tmp_path / "lake", "datasets").collect().to_dicts()
    assert row["manifest_sha256"] == sha256_file(built.path / "manifest.json")
    assert orjson.loads(row["lake_versions"]) == {"requests": 5, "reviews": 2}
    assert (row["version"], row["rows"], row["train"], row["holdout"], row["rejected"]) == ("aa", 3, 2, 1, 4)
    assert (row["seed"], row["run_id"], row["timestamp"]) == (7, "run-1", NOW)


def test_versions_are_needed_as_long_as_their_dataset_is_young_and_not_withdrawn(tmp_path: Path) -> None:
    folder, lake = tmp_path / "datasets", tmp_path / "lake"
    record_dataset(lake, dataset(folder, "old", requests=1), NOW - timedelta(days=91))
    record_dataset(lake, dataset(folder, "young", requests=2, reviews=9), NOW - timedelta(days=89))
    record_dataset(lake, dataset(folder, "also", requests=2), NOW)
    record_dataset(lake, dataset(folder, "erased", requests=3), NOW)
    withdraw(folder / "erased", "e1", 1, NOW)
    unrecorded = dataset(folder, "unrecorded", requests=4)
    os.utime(unrecorded.path / "manifest.json", (NOW.timestamp(), NOW.timestamp()))
    (folder / "broken").mkdir()
    (folder / "broken/manifest.json").write_text("{")
    built = datasets_built(lake, folder)
    assert versions_to_keep(built, "requests", 90, NOW) == {2: ["also", "young"], 4: ["unrecorded"]}
    assert versions_to_keep(built, "reviews", 90, NOW) == {9: ["young"]}
    assert versions_to_keep(built, "requests", 100, NOW).keys() == {1, 2, 4}


def test_no_dataset_needs_nothing(tmp_path: Path) -> None:
    assert datasets_built(tmp_path / "lake", tmp_path / "datasets") == []
