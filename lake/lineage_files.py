"""Who came from whom, read from the files themselves: dataset rows and rejects by source id, adapters by dataset.

Reads `data/datasets/<version>/*.parquet` (only the columns of lineage, and only the row groups whose statistics may
hold an id), `rejects.jsonl` and its like, and the registry's log, whose entries outlive the folders. Writes nothing.
Pure data out: `lake/trace.py` and `lake/erase.py` are built on it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lake.errors import DatasetError
from lake.redacted import LEFT_OUT
from lake.registry import replay
from lake.registry_log import RegistryLog
from lake.split_store import FOLDER as BOOK

_SOURCES = "source_ids"
_COLUMNS = ("row_id", "split", "label_source", _SOURCES)


@dataclass(frozen=True, slots=True)
class RowRef:
    """A row of a dataset version and what it came from (request, feedback, review, label and synthetic ids)."""

    dataset: str
    file: str
    row_id: str
    split: str
    label_source: str
    source_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An adapter as the registry's log knows it."""

    adapter_id: str
    state: str
    dataset: str
    added: str  # UTC


def dataset_folders(datasets_dir: Path) -> list[Path]:
    """Folders of all versions on disk, by name; hidden ones are not finished."""
    if not datasets_dir.is_dir():
        return []
    folders = (one for one in datasets_dir.iterdir() if one.is_dir() and one.name != BOOK)
    return sorted(one for one in folders if not one.name.startswith("."))


def rows_of(folder: Path, ids: Collection[str] | None = None, row_id: str | None = None) -> Iterator[RowRef]:
    """Rows that came from one of `ids`, or the row `row_id`, or all; of each file with lineage (rows, preferences).

    Raises `DatasetError` where a file can't be read.
    """
    for path in sorted(folder.glob("*.parquet")):
        try:
            with pq.ParquetFile(path) as file:
                if _SOURCES in file.schema_arrow.names:
                    yield from _rows(folder.name, path.name, file, ids, row_id)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(
                f"{path} can't be read ({error}): delete the dataset's folder and build again.", path=str(path)
            ) from error


def _rows(
    dataset: str, name: str, file: pq.ParquetFile, ids: Collection[str] | None, row_id: str | None
) -> Iterator[RowRef]:
    columns = [column for column in _COLUMNS if column in file.schema_arrow.names]
    wanted = pa.array(sorted(ids), pa.string()) if ids is not None else None
    for group in range(file.num_row_groups):
        if ids is not None and not _may_hold(file.metadata.row_group(group), ids):
            continue
        table: Any = file.read_row_group(group, columns=columns)
        if wanted is not None:
            sources = table.column(_SOURCES).combine_chunks()
            compute: Any = pc
            parents = compute.list_parent_indices(sources)
            hits = compute.unique(parents.filter(compute.is_in(sources.flatten(), value_set=wanted)))
            table = table.take(hits)
        for row in table.to_pylist():
            if row_id is None or row.get("row_id") == row_id:
                yield RowRef(
                    dataset,
                    name,
                    str(row.get("row_id") or ""),
                    str(row.get("split") or ""),
                    str(row.get("label_source") or ""),
                    tuple(row[_SOURCES]),
                )


def _may_hold(group: Any, ids: Collection[str]) -> bool:
    """False only where the statistics exclude all of `ids`."""
    for position in range(group.num_columns):
        column = group.column(position)
        if column.path_in_schema.split(".", 1)[0] == _SOURCES:
            facts = column.statistics
            if facts is None or not facts.has_min_max:
                return True
            return any(facts.min <= one <= facts.max for one in ids)
    return True


def rejects_of(folder: Path, ids: Collection[str]) -> int:
    """Lines of a dataset's rejects and retrieval failures that are of `ids`."""
    needles = [one.encode() for one in ids] if len(ids) <= 20 else []
    count = 0
    for name, field in LEFT_OUT.items():
        path = folder / name
        if not path.is_file():
            continue
        with path.open("rb") as handle:
            for line in handle:
                if not needles or any(needle in line for needle in needles):
                    count += orjson.loads(line).get(field) in ids
    return count


def all_adapters(models_dir: Path) -> list[AdapterRef]:
    """Every adapter ever added, oldest first. Raises `AdapterError` where the log is damaged."""
    view = replay(RegistryLog(models_dir / "registry" / "log.jsonl").read())
    return [
        AdapterRef(one, view.states[one], str((event.evidence.get("dataset") or {}).get("version", "")), event.at)
        for one, event in view.added.items()
    ]


def adapters_of(models_dir: Path, versions: Sequence[str]) -> list[AdapterRef]:
    """Adapters that were trained on one of these dataset versions."""
    return [one for one in all_adapters(models_dir) if one.dataset in set(versions)]
