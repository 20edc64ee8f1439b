"""Records of a log file or a folder of them, one after the other: JSONL, JSON, gzip of both, Parquet.

Reads them and nothing else. Memory: one line, or one batch of a Parquet file; a `.json` file is read whole. Invariant:
every line is yielded, as a record or as the reason why it is none.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lake.errors import InputError

MAX_LINE_BYTES = 64 << 20
_KINDS = (".jsonl", ".ndjson", ".json", ".parquet", ".jsonl.gz", ".ndjson.gz", ".json.gz")
_BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Line:
    """`number`: 1-based, of a line or a row. `record` is None where `reason` says why; `raw`: as it stood there."""

    file: Path
    number: int
    record: dict[str, Any] | None
    raw: bytes | dict[str, Any]
    reason: str = ""


def log_files(place: Path) -> list[Path]:
    """The file, or every log file below the folder, by name. Raises `InputError` where there is none."""
    found = [place] if place.is_file() else sorted(one for one in place.rglob("*") if one.is_file())
    files = [one for one in found if one.name.lower().endswith(_KINDS)]
    if not files:
        raise InputError(f"There is no log at {place}: name a file or folder of {', '.join(_KINDS)}.")
    return files


def lines(file: Path) -> Iterator[Line]:
    """Every record of a file, in order. Raises `InputError` where the file as a whole can't be read."""
    name = file.name.lower()
    try:
        if name.endswith(".parquet"):
            yield from _rows(file)
            return
        with gzip.open(file) if name.endswith(".gz") else file.open("rb") as handle:
            if name.removesuffix(".gz").endswith(".json"):
                yield from _objects(file, handle.read())
            else:
                yield from _lines(file, cast("IO[bytes]", handle))
    except (OSError, EOFError, pa.ArrowException) as error:
        raise InputError(f"The log {file} can't be read ({error}): copy it again.") from error


def _lines(file: Path, handle: IO[bytes]) -> Iterator[Line]:
    number = 0
    while raw := handle.readline(MAX_LINE_BYTES):
        number += 1
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (more := handle.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
                pass
            yield Line(file, number, None, raw[:4096], "line_too_long")
        elif raw.strip():
            yield _parsed(file, number, raw.strip())


def _parsed(file: Path, number: int, raw: bytes) -> Line:
    try:
        value: object = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return Line(file, number, None, raw, "not_json")
    if not isinstance(value, dict):
        return Line(file, number, None, raw, "not_an_object")
    return Line(file, number, cast("dict[str, Any]", value), raw)


def _objects(file: Path, data: bytes) -> Iterator[Line]:
    """A `.json` file: one object, a list of them, or lines all the same."""
    try:
        value: object = orjson.loads(data)
    except orjson.JSONDecodeError:
        for number, raw in enumerate(data.splitlines(), 1):
            if raw.strip():
                yield _parsed(file, number, raw)
        return
    listed = cast("list[object]", value) if isinstance(value, list) else [value]
    for number, one in enumerate(listed, 1):
        if isinstance(one, dict):
            record = cast("dict[str, Any]", one)
            yield Line(file, number, record, record)
        else:
            yield Line(file, number, None, orjson.dumps(one), "not_an_object")


def _rows(file: Path) -> Iterator[Line]:
    number = 0
    with pq.ParquetFile(file) as held:
        for batch in held.iter_batches(_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield Line(file, number, row, row)
