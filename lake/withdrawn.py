"""Datasets that may not be used any more because rows of them were erased; the mark outlives the folder.

Reads and writes `data/datasets/<version>.withdrawn` (JSON: when, by which erasure, how many rows). Invariant: from
the moment the mark is there nobody reads, trains on or registers an adapter of that version; the mark holds no id
and no text of what was erased.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from lake.errors import WithdrawnError
from lake.files import read_json, write_json_atomic


def withdrawal_file(dataset: Path) -> Path:
    """The mark of a dataset folder, beside it."""
    return dataset.with_name(f"{dataset.name}.withdrawn")


def is_withdrawn(dataset: Path) -> bool:
    """Whether the version may not be used."""
    return withdrawal_file(dataset).exists()


def withdraw(dataset: Path, erasure_id: str, rows: int, at: datetime) -> bool:
    """Mark a version; False where it was marked before. Durable on return, safe to retry."""
    mark = withdrawal_file(dataset)
    if mark.exists():
        return False
    facts = {"version": dataset.name, "erasure_id": erasure_id, "rows": rows, "at": at.isoformat()}
    write_json_atomic(mark, facts)
    return True


def withdrawn_versions(datasets_dir: Path) -> dict[str, str]:
    """Version: erasure id, of every version that was withdrawn."""
    return {mark.stem: read_json(mark)["erasure_id"] for mark in sorted(datasets_dir.glob("*.withdrawn"))}


def require_kept(dataset: Path) -> None:
    """Raises `WithdrawnError` where the version was withdrawn."""
    if is_withdrawn(dataset):
        raise WithdrawnError(
            f"The dataset {dataset.name} was withdrawn: rows of it were erased. Build again "
            "(`python -m flows.build`) and train on the new version.",
            path=str(dataset),
        )
