"""Rows of a JSONL, CSV or Parquet file with their line numbers, one at a time. Knows formats, not catalogues.

Reads one file; writes nothing. Invariant: a line that can't be parsed comes out as a `BadRow`, and reading
goes on.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lake.errors import CatalogError

MAX_LINE_BYTES = 4 << 20
_PIECE_BYTES = 1 << 20
_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be parsed."""

    reason: str


Rows = Iterator[tuple[int, dict[str, Any] | BadRow]]


def read_rows(path: Path) -> Rows:
    """(1-based line, row) by the file's ending. Raises `CatalogError` where the file can't be read at all."""
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise CatalogError(f"{path} is none of {', '.join(sorted(readers))}: convert the catalogue to one of them.")
    try:
        yield from reader(path)
    except OSError as error:
        raise CatalogError(
            f"{path} can't be read ({error.strerror or error}): check the path and its rights."
        ) from error


def _jsonl(path: Path) -> Rows:
    with path.open("rb") as handle:
        number = 0
        while line := handle.readline(MAX_LINE_BYTES):
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                while (rest := handle.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    continue
                yield number, BadRow(f"line is longer than {MAX_LINE_BYTES} bytes")
                continue
            if not line.strip():
                continue
            try:
                value: object = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                yield number, BadRow(f"not valid JSON: {error.msg}")
                continue
            yield (
                number,
                cast("dict[str, Any]", value) if isinstance(value, dict) else BadRow("not a JSON object"),
            )


def _csv(path: Path) -> Rows:
    encoding = _encoding(path)
    with path.open("r", encoding=encoding, errors="surrogateescape", newline="") as handle:
        first = handle.readline(MAX_LINE_BYTES)
        delimiter = max(",;\t", key=first.count)
        header = [name.strip().lower() for name in next(csv.reader([first], delimiter=delimiter), [])]
        if "name" not in header:
            raise CatalogError(
                f"{path} has no column `name` in its first line ({first.strip()[:80]!r}): add a header line "
                "with at least name and description."
            )
        reader = csv.reader(handle, delimiter=delimiter)
        while True:
            line = reader.line_num + 2  # the first line of this record; the header was read before
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, BadRow(f"not valid CSV: {error}")
                continue
            if not any(values):
                continue
            if len(values) > len(header):
                yield line, BadRow(f"{len(values)} fields, the header has {len(header)}")
                continue
            yield line, {name: value for name, value in zip(header, values, strict=False) if value}


def _encoding(path: Path) -> str:
    """UTF-8 unless it isn't and all of the file is CP949 (what Korean Excel saves)."""
    if not _decodes(path, "utf-8") and _decodes(path, "cp949"):
        return "cp949"
    return "utf-8-sig"


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with path.open("rb") as handle:
            while piece := handle.read(_PIECE_BYTES):
                decoder.decode(piece)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _parquet(path: Path) -> Rows:
    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, cast("dict[str, Any]", row)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise CatalogError(f"{path} is not a readable Parquet file ({error}): write it again.") from error
