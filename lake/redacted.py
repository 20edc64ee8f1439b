"""Files of a dataset that an erasure changed without making the rows wrong: what they were and what they are now.

Reads and writes `data/datasets/<version>.redacted` (JSON, file: its sha256 and bytes before and after). A request
that a build left out stands in its rejects (or its retrieval failures) only: taking it out there must not cost the
dataset, whose version is a hash over all its files. Invariant: a file counts as intact only if it is what the build
wrote, or what an erasure left of that.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import orjson

from lake.files import read_json, sha256_bytes, write_bytes_atomic, write_json_atomic

LEFT_OUT = {"rejects.jsonl": "source_id", "retrieval_failures.jsonl": "request_id"}  # file: field with the id


def _book(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.redacted")


def original_of(folder: Path, name: str, sha256: str, size_bytes: int) -> tuple[str, int]:
    """(sha256, bytes) that the file had when it was built, if its present ones are what an erasure left; else those."""
    book = _book(folder)
    if not book.exists():
        return sha256, size_bytes
    known: dict[str, Any] = read_json(book).get(name) or {}
    if sha256 not in known.get("after", []):
        return sha256, size_bytes
    return known["before"], known["before_bytes"]


def redact(folder: Path, ids: Collection[str]) -> int:
    """Take the lines of `ids` out of the files that name what the build left out; how many. Safe to kill anywhere and
    to repeat.
    """
    return sum(_redact(folder, name, field, ids) for name, field in LEFT_OUT.items())


def _redact(folder: Path, name: str, field: str, ids: Collection[str]) -> int:
    path = folder / name
    if not path.is_file():
        return 0
    data = path.read_bytes()
    lines = data.splitlines(keepends=True)
    kept = [line for line in lines if orjson.loads(line).get(field) not in ids]
    if len(kept) == len(lines):
        return 0
    after = b"".join(kept)
    before, before_bytes = original_of(folder, name, sha256_bytes(data), len(data))
    book = _book(folder)
    earlier: dict[str, Any] = read_json(book) if book.exists() else {}
    left = [*(earlier.get(name) or {}).get("after", []), sha256_bytes(after)]
    entry = {"before": before, "before_bytes": before_bytes, "after": left}
    write_json_atomic(book, {**earlier, name: entry})  # first, so that the file is intact at every moment
    write_bytes_atomic(path, after)
    return len(lines) - len(kept)
