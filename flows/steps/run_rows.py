"""What a run of teacher or synthesis made and dropped, as rows of the lake: each once, however often it is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from lake.location import LakeDir
from lake.privacy.mask import mask
from lake.privacy.records import mask_records
from lake.schemas.rows import Reject
from lake.tables import append, scan

_SAMPLE_CHARS = 500
_STORED_AT_ONCE = 500  # rows of one append


def store_rows(
    lake_dir: LakeDir, table: str, id_column: str, run_id: str, rows: Sequence[Mapping[str, Any]],
    mask_off: Iterable[str] = (),
) -> int:  # fmt: skip
    """Append those whose ids the table does not have of this run, masked; how many. Safe to repeat."""
    own = scan(lake_dir, table).filter(pl.col("run_id") == run_id)
    there = set(own.select(id_column).collect()[id_column].to_list())
    new = mask_records(table, [row for row in rows if row[id_column] not in there], mask_off)
    for start in range(0, len(new), _STORED_AT_ONCE):
        append(lake_dir, table, new[start : start + _STORED_AT_ONCE])
    return len(new)


def store_rejects(
    lake_dir: LakeDir, run_id: str, stage: str, rejects: Sequence[Reject], mask_off: Iterable[str] = ()
) -> int:
    """Append those that `run_id` has not noted yet; how many. Safe to repeat with more of them.

    Samples are masked, before they are cut: half a number is no longer seen as one. `mask_off`: types that stay.
    """
    left = frozenset(mask_off)
    noted = scan(lake_dir, "rejects").filter((pl.col("run_id") == run_id) & (pl.col("stage") == stage))
    known = Counter(noted.select("reason", "source_id", "sample").collect().iter_rows())
    now = datetime.now(UTC)
    fresh: list[dict[str, object]] = []
    for one in rejects:
        row = (one.reason, one.source_id, mask(one.sample, left).text[:_SAMPLE_CHARS])
        if known[row] > 0:
            known[row] -= 1
            continue
        fresh.append(
            {
                "timestamp": now,
                "run_id": run_id,
                "stage": stage,
                "reason": row[0],
                "source_id": row[1],
                "sample": row[2],
            }
        )
    if fresh:
        append(lake_dir, "rejects", fresh)
    return len(fresh)
