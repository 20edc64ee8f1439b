"""What can't become a row: its bytes and the reason, kept as files for a person to look at.

Writes `data/quarantine/<worker>/<segment>-<offset>-<length>.bin` and `.json`, both whole or not at all. The
name follows from the place, so a range is kept once however often it is met; the `.json` comes last and
counts.
"""

from __future__ import annotations

from pathlib import Path

from lake.files import sha256_bytes, write_bytes_atomic, write_json_atomic
from lake.journal.reader import Segment


def _stem(root: Path, segment: Segment, offset: int, length: int) -> Path:
    return root / segment.path.parent.name / f"{segment.path.stem}-{offset:012d}-{length}"


def keep(root: Path, segment: Segment, offset: int, length: int, reason: str) -> bool:
    """Copy a range of a segment; False where it is there already. Safe to retry."""
    stem = _stem(root, segment, offset, length)
    if stem.with_suffix(".json").exists():
        return False
    with segment.path.open("rb") as handle:
        handle.seek(offset)
        data = handle.read(length)
    write_bytes_atomic(stem.with_suffix(".bin"), data)
    facts = {
        "segment": segment.name,
        "offset": offset,
        "length": length,
        "reason": reason,
        "sha256": sha256_bytes(data),
    }
    write_json_atomic(stem.with_suffix(".json"), facts)
    return True


def kept(root: Path, worker: Path) -> set[tuple[str, int]]:
    """(segment name, offset) of everything kept of a worker."""
    found: set[tuple[str, int]] = set()
    for path in (root / worker.name).glob("*.json"):
        stem, offset, _ = path.stem.rsplit("-", 2)
        found.add((f"{worker.name}/{stem}.mjl", int(offset)))
    return found
