"""Rows of a build that wait on disk until their splits are decided: a sort of any size in bounded memory.

Writes Arrow files into a folder that the caller removes, one a range of row ids, some `BUCKET_ROWS` rows each; gives
the rows that stay back in the order of their ids. Row ids are `row-` and 16 hex digits of a hash, so ranges fill
evenly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl
import pyarrow as pa

from lake.dataset_files import CONTENT

BUCKET_ROWS = 10_000
MAX_BUCKETS = 1_024
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


class Spool:
    """For about `expected` rows in `folder`."""

    def __init__(self, folder: Path, expected: int) -> None:
        self._folder = folder
        self.buckets = min(MAX_BUCKETS, expected // BUCKET_ROWS + 1)
        self._writers: dict[int, Any] = {}
        self._held: dict[int, list[dict[str, Any]]] = {}
        self._block = max(1, BUCKET_ROWS // self.buckets)  # so that all that is held is one bucket or so

    def add(self, row: dict[str, Any]) -> None:
        """A row of `CONTENT`, in any order; `split` and `cluster_id` may be empty yet."""
        bucket = int(row["row_id"][4:8], 16) * self.buckets >> 16
        held = self._held.setdefault(bucket, [])
        held.append(row)
        if len(held) >= self._block:
            self._write(bucket)

    def _write(self, bucket: int) -> None:
        if bucket not in self._writers:
            path = str(self._folder / f"{bucket:04}.arrow")
            self._writers[bucket] = pa.ipc.new_file(path, CONTENT, options=_OPTIONS)
        self._writers[bucket].write_batch(pa.RecordBatch.from_pylist(self._held.pop(bucket), schema=CONTENT))

    def tables(self, placed: pl.DataFrame) -> Iterator[pa.Table]:
        """The rows of `placed` (row_id, split, cluster_id), sorted by row id, a table a bucket. Ends the writing."""
        for bucket in list(self._held):
            self._write(bucket)
        for writer in self._writers.values():
            writer.close()
        for bucket in sorted(self._writers):
            yield _placed(self._folder / f"{bucket:04}.arrow", placed)


def _placed(path: Path, placed: pl.DataFrame) -> pa.Table:
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
        table: Any = reader.read_all()
    ids = cast(pl.DataFrame, pl.from_arrow(table.select(["row_id"]))).with_row_index("at")
    rows = ids.join(placed.select("row_id", "split", "cluster_id"), on="row_id").sort("row_id")
    table = table.take(rows["at"].to_arrow())
    for name in ("split", "cluster_id"):
        column = rows[name].to_arrow().cast(pa.string())
        table = table.set_column(table.schema.get_field_index(name), CONTENT.field(name), column)
    return table


def split_frame(decided: Sequence[tuple[str, str, str]]) -> pl.DataFrame:
    """row_id, split, cluster_id as a frame."""
    return pl.DataFrame(decided, schema=["row_id", "split", "cluster_id"], orient="row")
