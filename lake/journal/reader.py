"""Reading a journal: its workers and segments, whether a worker lives, frames, one request by its id.

Reads `data/journal/`; writes nothing. Safe beside live writers: a reader sees a prefix of what they write.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson

from lake.journal.frames import HEADER_BYTES, MAX_PAYLOAD_BYTES, Damage, Frame, decode_at, scan
from lake.journal.segments import LOCK_NAME, SEGMENT_SUFFIX
from lake.schemas.records import FrameKind


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of a worker. `name` is `<worker dir>/<file>`, as the tables and the Delta markers know it."""

    name: str
    path: Path
    number: int


@dataclass(frozen=True, slots=True)
class FoundHalves:
    """What the journal holds of one request; a half is None where it holds none."""

    request: dict[str, Any] | None
    response: dict[str, Any] | None
    request_segment: str | None
    response_segment: str | None


def list_workers(root: Path) -> list[Path]:
    """Worker directories below the journal root, by name; none where the root does not exist."""
    if not root.is_dir():
        return []
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def list_segments(worker: Path) -> list[Segment]:
    """Segments of a worker in the order of writing."""
    found = [
        Segment(f"{worker.name}/{path.name}", path, int(path.stem))
        for path in worker.glob(f"*{SEGMENT_SUFFIX}")
        if path.stem.isdigit()
    ]
    return sorted(found, key=lambda segment: segment.number)


def is_worker_alive(worker: Path) -> bool:
    """Whether a process holds the directory's lock. A directory without one (a copy) has no worker."""
    try:
        fd = os.open(worker / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: readers never take each other for a worker
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def read_segment(path: Path, start: int = 0) -> Iterator[Frame | Damage]:
    """Frames and damage of a segment from a frame boundary on; one segment (64 MiB) is held in memory."""
    yield from scan(path.read_bytes(), start)


def read_frame(path: Path, offset: int, size: int = HEADER_BYTES + MAX_PAYLOAD_BYTES) -> Frame | Damage:
    """The one frame at `offset`, checked again; `size` (bytes) saves reading on where it is known."""
    with path.open("rb") as handle:
        handle.seek(offset)
        found = decode_at(handle.read(size), 0)
    if isinstance(found, Damage):
        return Damage(offset, found.length, found.reason)
    return Frame(offset, found.size, found.kind, found.flags, found.seq, found.payload)


def parse_payload(frame: Frame) -> dict[str, Any] | None:
    """The payload as an object; None where it is not one."""
    try:
        value: object = orjson.loads(frame.payload)
    except orjson.JSONDecodeError:
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def find(root: Path, request_id: str) -> FoundHalves:
    """Both halves of a request from whichever worker wrote them; reads every segment, newest worker last."""
    halves: dict[int, tuple[dict[str, Any], str]] = {}
    needle = orjson.dumps(request_id)
    for worker in list_workers(root):
        for segment in list_segments(worker):
            for found in read_segment(segment.path):
                if (
                    isinstance(found, Damage)
                    or found.kind not in (FrameKind.REQUEST, FrameKind.RESPONSE)
                    or found.kind in halves
                    or needle not in found.payload
                ):
                    continue
                payload = parse_payload(found)
                if payload is not None and payload.get("request_id") == request_id:
                    halves[found.kind] = (payload, segment.name)
    request, response = halves.get(FrameKind.REQUEST), halves.get(FrameKind.RESPONSE)
    return FoundHalves(
        request[0] if request else None,
        response[0] if response else None,
        request[1] if request else None,
        response[1] if response else None,
    )
