"""What a build reads of the lake: short columns of every row, long ones only of the rows that have a label.

Reads requests, reviews, feedback, teacher_labels and synthetic, each at one version, in batches: retrieved items and
answers of a million requests are some gigabytes and are never in memory together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import orjson
import polars as pl
import pyarrow.parquet as pq

from lake.errors import DatasetError
from lake.files import canonical_json, read_json, sha256_bytes
from lake.location import LakeDir
from lake.registry import Registry
from lake.rules.depth import Lineage, trained_depth
from lake.rules.label import COLUMNS
from lake.tables import dataset, scan, table_version
from lake.text import nfc

SOURCES = tuple(COLUMNS)
IDS = {"requests": "request_id", "synthetic": "synthetic_id"}
LONG = {
    "requests": (
        "request_id", "retrieved_items", "llm_response_content", "outcome", "finish_reason", "prompt_sha256", "model",
        "adapter", "backend", "index_version", "embedder",
    ),
    "synthetic": ("synthetic_id", "retrieved_items"),
}  # fmt: skip
_BATCH = 1_024  # rows


def read_test_questions(path: Path | None) -> list[str]:
    """The questions of a test file (JSON Lines with "question"), NFC. Raises `DatasetError` with the line."""
    if path is None:
        return []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DatasetError(
            f"The test questions at {path} can't be read ({error.strerror}): the build must "
            "keep them out of training. Set the test file to the right path.",
            path=str(path),
        ) from error
    questions: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            question = orjson.loads(line)["question"]
            if not isinstance(question, str) or not question.strip():
                raise ValueError("question is empty or not text")
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f'{path}, line {number}: not a JSON object with a "question" ({error}): correct that line.',
                path=str(path),
                line=number,
            ) from error
        questions.append(nfc(question))
    return questions


def source_versions(lake_dir: LakeDir) -> dict[str, int]:
    """The newest version of each table that is read."""
    return {name: table_version(lake_dir, name) for name in SOURCES}


def short_rows(lake_dir: LakeDir, versions: Mapping[str, int]) -> dict[str, pl.DataFrame]:
    """What the labels are chosen from."""
    return {name: scan(lake_dir, name, versions[name]).select(COLUMNS[name]).collect() for name in SOURCES}


def logged_names(lake_dir: LakeDir, versions: Mapping[str, int]) -> set[str]:
    """Names of all tools that were ever retrieved, NFC; of the retrieved items only this one leaf is read."""
    found: set[str] = set()
    for name in LONG:
        for fragment in dataset(lake_dir, name, versions[name]).get_fragments():
            with fragment.filesystem.open_input_file(fragment.path) as handle, pq.ParquetFile(handle) as file:
                paths = [file.schema.column(place).path for place in range(len(file.schema.names))]
                leaf = [path for path in paths if path.startswith("retrieved_items.") and path.endswith(".name")]
                for group in range(file.num_row_groups if leaf else 0):
                    table: Any = file.read_row_group(group, columns=leaf)
                    items = table.column("retrieved_items").combine_chunks().flatten()
                    found.update(items.field("name").unique().to_pylist())
    return {nfc(name) for name in found if name}


def long_rows(
    lake_dir: LakeDir, versions: Mapping[str, int], chosen: pl.DataFrame
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(row of `chosen`, long columns of its request or synthetic row), in the order of the tables' files."""
    for name, columns in LONG.items():
        wanted = chosen.filter(pl.col("table") == name)
        if wanted.is_empty():
            continue
        source = dataset(lake_dir, name, versions[name])
        scanner = source.scanner(
            columns=list(columns), batch_size=_BATCH, batch_readahead=2, fragment_readahead=1, use_threads=True
        )
        for batch in scanner.to_batches():
            frame = cast(pl.DataFrame, pl.from_arrow(batch)).join(wanted, left_on=IDS[name], right_on="source_id")
            for row in frame.rename({IDS[name]: "source_id"}).iter_rows(named=True):
                yield row, row


def read_lineage(models_dir: Path, datasets_dir: Path, lake_dir: LakeDir, base_models: frozenset[str]) -> Lineage:
    """How deep the answers of each adapter are that was ever registered.

    From the registry's log (an adapter's files may be gone) and its dataset's manifest, else the table `datasets`.
    """
    depths: dict[str, int] = {}
    for event in Registry(models_dir).history():
        if event.kind == "add":
            version = str((event.evidence.get("dataset") or {}).get("version") or "")
            depths[event.adapter_id] = trained_depth(_depth_of(version, datasets_dir, lake_dir))
    return Lineage(base_models, depths)


def _depth_of(version: str, datasets_dir: Path, lake_dir: LakeDir) -> int:
    """The deepest generation among a dataset's rows; 0 for one from before generations were counted."""
    try:
        return int(read_json(datasets_dir / version / "manifest.json")["counts"].get("max_generation", 0))
    except (OSError, ValueError, KeyError, TypeError):
        rows = scan(lake_dir, "datasets").filter(pl.col("version") == version).select("counts").collect()
        return max((int(orjson.loads(one).get("max_generation", 0)) for one in rows["counts"]), default=0)


def names_sha256(names: set[str]) -> str:
    """One hash for a set of names."""
    return sha256_bytes(canonical_json(sorted(names)))
