"""Catalogue tools in an Arrow file that is mapped into memory: 900,000 of them cost no Python object until one
is read.

Writes and reads `tools.arrow` of an index version (uncompressed Arrow IPC, batches of `BATCH_ROWS`).
Invariant: a table gives back the tools that were written, in their order; opening reads the footer only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import pyarrow as pa

from lake.schemas.rows import Tool

BATCH_ROWS = 4096
T = TypeVar("T")
_LISTS = ("tags", "aliases")
_NAMES = tuple(field.name for field in fields(Tool))
SCHEMA = pa.schema([(name, pa.list_(pa.string()) if name in _LISTS else pa.string()) for name in _NAMES])


def blocks(rows: Iterable[T], size: int = BATCH_ROWS) -> Iterator[list[T]]:
    """Lists of at most `size` rows, in order."""
    source = iter(rows)
    while block := list(islice(source, size)):
        yield block


def open_batches(path: Path, schema: pa.Schema) -> tuple[list[pa.RecordBatch], int]:
    """(mapped batches, rows of them all); all but the last have `BATCH_ROWS`. Raises `OSError`, `pa.ArrowException`."""
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    if reader.schema != schema:
        raise pa.ArrowInvalid(f"{path} has other columns than {', '.join(schema.names)}")
    batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    if any(batch.num_rows != BATCH_ROWS for batch in batches[:-1]):
        raise pa.ArrowInvalid(f"{path} has batches of another size than {BATCH_ROWS} rows")
    return batches, sum(batch.num_rows for batch in batches)


class ToolTable(Sequence[Tool]):
    """A written table; immutable, safe to share between threads. Raises `OSError` and `pa.ArrowException` where the
    file is none.
    """

    def __init__(self, path: Path) -> None:
        self._batches, self._length = open_batches(path, SCHEMA)

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Tool: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tool]: ...
    def __getitem__(self, index: int | slice) -> Tool | list[Tool]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._length))]
        number = index + self._length if index < 0 else index
        if not 0 <= number < self._length:
            raise IndexError(index)
        batch = self._batches[number // BATCH_ROWS]
        row = number % BATCH_ROWS
        return _tool({name: batch.column(place)[row].as_py() for place, name in enumerate(_NAMES)})

    def __iter__(self) -> Iterator[Tool]:
        for batch in self._batches:
            yield from map(_tool, cast("list[dict[str, Any]]", batch.to_pylist()))


def write_tools(path: Path, tools: Iterable[Tool]) -> int:
    """Write all of `tools`, one batch in memory at a time; returns how many."""
    count = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for block in blocks(tools):
            writer.write_batch(tool_batch(block))
            count += len(block)
    return count


def tool_batch(block: Sequence[Tool]) -> pa.RecordBatch:
    """One Arrow batch of tools."""
    columns = [pa.array([getattr(tool, name) for tool in block], type=SCHEMA.field(name).type) for name in _NAMES]
    return pa.record_batch(columns, schema=SCHEMA)


def _tool(row: dict[str, Any]) -> Tool:
    return Tool(**{**row, "tags": tuple(row["tags"]), "aliases": tuple(row["aliases"])})
