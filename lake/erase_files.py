"""Files beside tables and journals that hold something of an erased subject: each kind is cleared in its own way.

Reads and writes below `data/` and `models/`. Answer caches forget the ids; other SQLite files have the words replaced,
the freed pages blanked; JSON lines that hold a word go; logs that a process may be appending to are blanked in place,
byte for byte; other text files are written anew with `[erased]`. Invariant: a file of a kind that is not known, or
whose bytes are hashed elsewhere (chained logs, adapters that serve), is left alone and reported. Safe to repeat.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from lake.answer_cache import forget
from lake.erase_search import Finding, Words, sqlite_columns
from lake.files import fsync_dir, write_bytes_atomic

ERASED = b"[erased]"
_TEXT = frozenset({".json", ".html", ".md", ".txt", ".csv", ".tsv", ".svg", ".toml", ".prom", ".xml", ".yaml"})
_APPENDED = frozenset({".log", ".out", ".err"})
_CHAINED = "log.jsonl"  # lake/chained_log.py: each line names the hash of the one before


def forget_answers(data_dir: Path, ids: Iterable[str]) -> int:
    """Take the answers that were asked for these ids out of every answer cache; how many."""
    ids = sorted(ids)
    return sum(forget(path, ids) for path in sorted(data_dir.glob("*/answers.sqlite")))


def clear(finding: Finding, words: Words) -> bool:
    """Take the words out of a file; False where its kind is not one that can be changed. Raises `OSError`."""
    path = Path(finding.path)
    try:
        with path.open("rb") as handle:
            head = handle.read(16)
        if head == b"SQLite format 3\x00":
            clear_sqlite(path, words)
        elif path.name.endswith(("-wal", "-journal")):
            return True  # goes with the checkpoint of its SQLite file
        elif path.suffix in _APPENDED or path.name == "progress.jsonl":
            _blank(path, words)
        elif path.suffix == ".jsonl" and path.name != _CHAINED:
            lines = path.read_bytes().splitlines(keepends=True)
            _rewrite(path, b"".join(line for line in lines if not words.is_in(line)))
        elif path.suffix in _TEXT:
            data = path.read_bytes()
            for pattern in _longest_first(words):
                data = data.replace(pattern, ERASED)
            _rewrite(path, data)
        else:
            return False
    except FileNotFoundError:  # gone meanwhile
        return True
    return True


def _longest_first(words: Words) -> list[bytes]:
    return sorted(words.patterns, key=len, reverse=True)


def _rewrite(path: Path, data: bytes) -> None:
    write_bytes_atomic(path, data, path.stat().st_mode & 0o777)


def _blank(path: Path, words: Words) -> None:
    """Overwrite the words with x, as long as they are: whoever appends to the file does not notice."""
    data = path.read_bytes()
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for pattern in _longest_first(words):
            at = data.find(pattern)
            while at >= 0:
                os.pwrite(descriptor, b"x" * len(pattern), at)
                at = data.find(pattern, at + 1)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def clear_sqlite(path: Path, words: Words) -> int:
    """Replace the words in every value, drop rows whose key would clash, blank what was freed; how many rows.

    Raises `OSError` where the file can't be changed now (another process holds it for long).
    """
    changed = 0
    try:
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            connection.execute("PRAGMA secure_delete = ON")
            for table, column in sqlite_columns(connection):
                for word in sorted(words.words, key=len, reverse=True):
                    where = f"typeof({column}) = 'text' AND instr({column}, ?)"
                    try:
                        query = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {where}"
                        changed += connection.execute(query, (word, ERASED.decode(), word)).rowcount
                    except sqlite3.IntegrityError:
                        changed += connection.execute(f"DELETE FROM {table} WHERE {where}", (word,)).rowcount
            connection.execute("VACUUM")  # pages that were freed before
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error
    return changed


def remove_folder(folder: Path) -> bool:
    """Take a folder away, its name first, so that nobody reads half of it; False where it is not there."""
    aside = folder.with_name(f".{folder.name}.erased")
    if aside.is_dir():  # a run was killed here
        shutil.rmtree(aside)
    if not folder.is_dir():
        return False
    folder.rename(aside)
    shutil.rmtree(aside)
    fsync_dir(folder.parent)
    return True
