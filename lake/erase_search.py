"""Whether given words still stand anywhere on the disk: every byte of every file is searched, compressed ones decoded.

Reads whole trees; writes nothing. A word is looked for in each form that it may have in a file: as it is, as JSON
writes it (with and without \\u escapes) and as HTML does. Parquet is searched column by column, SQLite value by value,
gzip, zstd and zip as what they unpack to, and all of them as raw bytes too. Invariant: a file that could not be read
or decoded is reported, so that nothing counts as searched that was not.
"""

from __future__ import annotations

import gzip
import html
import io
import json
import mmap
import os
import sqlite3
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from lake.location import LakeDir
from lake.storage import read_file, sizes

MIN_WORD_BYTES = 8  # shorter ones are met by chance
_FEW = 6  # so many patterns are looked for one by one, which is faster than an automaton
_STEP_BYTES = 8 << 20
_BATCH_ROWS = 8192

Buffer = bytes | mmap.mmap


def forms(word: str) -> set[bytes]:
    """The bytes that a word may have in a file: plain, in SQL text, in JSON, in HTML."""
    return {
        word.encode(),
        word.replace("'", "''").encode(),
        orjson.dumps(word)[1:-1],
        json.dumps(word)[1:-1].encode(),
        html.escape(word).encode(),
    }


class Words:
    """What to look for. Words of fewer than `MIN_WORD_BYTES` bytes are left out; `left_out` says how many."""

    def __init__(self, words: Iterable[str]) -> None:
        given = {word for word in words if word}
        kept = {word for word in given if len(word.encode()) >= MIN_WORD_BYTES}
        self.left_out = len(given) - len(kept)
        self.words = frozenset(kept)
        self.patterns = sorted({form for word in kept for form in forms(word)})
        self._latin = [pattern.decode("latin-1") for pattern in self.patterns]
        self._overlap = max((len(pattern) for pattern in self.patterns), default=1) - 1

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def is_in(self, data: Buffer) -> bool:
        """Whether any of them occurs."""
        if len(self.patterns) <= _FEW:
            return any(data.find(pattern) >= 0 for pattern in self.patterns)
        return any(
            # Latin-1 maps each byte to one character, so the automaton runs on bytes.
            pl.Series([data[at : at + _STEP_BYTES + self._overlap].decode("latin-1")]).str.contains_any(self._latin)[0]
            for at in range(0, len(data), _STEP_BYTES)
        )

    def among(self, texts: pl.Series) -> set[str]:
        """Those of the words that occur in a column of texts."""
        if not self.words or texts.is_empty():
            return set()
        found = texts.drop_nulls().str.extract_many(sorted(self.words), overlapping=True)
        return set(found.explode().drop_nulls().to_list())


@dataclass(frozen=True, slots=True)
class Finding:
    """A file with a word in it, or one that can't be searched. `how`: raw, parquet, sqlite, gzip, zstd, zip,
    unreadable."""

    path: str
    how: str


def search_file(path: Path, words: Words) -> Finding | None:
    """What is found first in a file; None where nothing is. A file that is gone meanwhile holds nothing."""
    try:
        if not path.stat().st_size:
            return None
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            how = _search(data, words, path)
    except FileNotFoundError:
        return None
    except OSError:
        how = "unreadable"
    return Finding(str(path), how) if how else None


def search_buffer(data: Buffer, words: Words) -> str | None:
    """How a word is found in the bytes of a file (`Finding.how`); None where none is."""
    return _search(data, words, None) or None


@dataclass(slots=True)
class Tally:
    """How much was searched."""

    files: int = 0
    bytes: int = 0


def search_tree(root: Path, words: Words, skip: Iterable[Path] = (), tally: Tally | None = None) -> Iterator[Finding]:
    """Findings below a folder, in the order of their paths; links are not followed, they have no bytes of their own."""
    tally = tally if tally is not None else Tally()
    left_out = {path.absolute() for path in skip}
    for place, folders, files in os.walk(root):
        folder = Path(place)
        folders[:] = sorted(name for name in folders if (folder / name).absolute() not in left_out)
        for name in sorted(files):
            path = folder / name
            if path.is_symlink() or not path.is_file():
                continue
            tally.files += 1
            with suppress(OSError):
                tally.bytes += path.stat().st_size
            if (finding := search_file(path, words)) is not None:
                yield finding


def search_lake(lake_dir: LakeDir, words: Words, tally: Tally | None = None) -> Iterator[Finding]:
    """As `search_tree`, also where the tables lie on S3 (each file is then read whole)."""
    tally = tally if tally is not None else Tally()
    if isinstance(lake_dir, Path):
        yield from search_tree(lake_dir, words, tally=tally)
        return
    for path, size in sorted(sizes(lake_dir).items()):
        tally.files += 1
        tally.bytes += size
        try:
            how = _search(read_file(lake_dir, path), words, None)
        except OSError:
            how = "unreadable"
        if how:
            yield Finding(f"{lake_dir}/{path}", how)


def _search(data: Buffer, words: Words, path: Path | None) -> str:
    """How a word is found in the bytes of a file; empty where none is."""
    if words.is_in(data):
        return "raw"
    head = data[:16]

    def source() -> Any:
        return path if path is not None else io.BytesIO(data[:])

    try:
        if head[:4] == b"PAR1":
            return "parquet" if _in_parquet(source(), words) else ""
        if head == b"SQLite format 3\x00" and path is not None:
            return "sqlite" if _in_sqlite(path, words) else ""
        if head[:2] == b"\x1f\x8b":
            return "gzip" if _in_stream(gzip.open(source()), words) else ""
        if head[:4] == b"\x28\xb5\x2f\xfd":
            stream = pa.CompressedInputStream(str(path) if path is not None else source(), "zstd")
            return "zstd" if _in_stream(stream, words) else ""
        if head[:4] == b"PK\x03\x04":
            return "zip" if _in_zip(source(), words) else ""
    except (OSError, EOFError, ValueError, pa.ArrowException, sqlite3.Error, zipfile.BadZipFile):
        return "unreadable"
    return ""


def _in_parquet(source: Any, words: Words) -> bool:
    held = bytearray()  # pieces together: with many words each look costs an automaton
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(_BATCH_ROWS):
            for column in batch.columns:
                for piece in _text_buffers(column):
                    held += piece + b"\x00"
            if len(held) >= _STEP_BYTES:
                if words.is_in(bytes(held)):
                    return True
                held.clear()
    return words.is_in(bytes(held))


def _text_buffers(array: Any) -> Iterator[bytes]:
    """The characters of all texts of an Arrow array, at any depth. Values touch there; a word that two of them make
    together would be found too, which errs on the safe side."""
    kind = array.type
    if isinstance(array, pa.DictionaryArray):
        yield from _text_buffers(array.dictionary)
    elif pa.types.is_struct(kind):
        for position in range(kind.num_fields):
            yield from _text_buffers(array.field(position))
    elif pa.types.is_map(kind):
        yield from _text_buffers(array.keys)
        yield from _text_buffers(array.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        yield from _text_buffers(array.values)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        characters = array.buffers()[2]
        if characters is not None:
            yield characters.to_pybytes()


def _in_stream(stream: Any, words: Words) -> bool:
    tail = b""
    with stream:
        while piece := stream.read(_STEP_BYTES):
            if words.is_in(tail + piece):
                return True
            tail = piece[-max(map(len, words.patterns)) :]
    return False


def _in_zip(source: Any, words: Words) -> bool:
    with zipfile.ZipFile(source) as archive:
        return any(_in_stream(archive.open(name), words) for name in archive.namelist())


def _in_sqlite(path: Path, words: Words) -> bool:
    return any(words.is_in(value) for _, _, value in sqlite_values(path))


def sqlite_values(path: Path) -> Iterator[tuple[str, str, bytes]]:
    """(table, column, bytes) of each text and blob of a SQLite file, read beside its users."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)) as connection:
        connection.text_factory = bytes
        for table, column in sqlite_columns(connection):
            query = f"SELECT {column} FROM {table} WHERE typeof({column}) IN ('text', 'blob')"
            for (value,) in connection.execute(query):
                yield table, column, value


def sqlite_columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Quoted names of every column of every table that holds rows of its own."""
    found: list[tuple[str, str]] = []
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        table = _quoted(name)
        found += [(table, _quoted(row[1])) for row in connection.execute(f"PRAGMA table_info({table})")]
    return found


def _quoted(name: bytes | str) -> str:
    text = name.decode() if isinstance(name, bytes) else name
    return '"' + text.replace('"', '""') + '"'
