"""Reading a journal: its workers and segments, whether a worker lives, frames, one request by its id.

Reads `data/journal/`; writes nothing. Safe beside live writers: a reader sees a prefix of what they write.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import orjson

from lake.journal.frames import HEADER_BYTES, MAGIC, MAX_PAYLOAD_BYTES, Damage, Frame, decode_at, scan
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


def records_of(root: Path, request_id: str, since: datetime | None = None) -> Iterator[tuple[int, dict[str, Any], str]]:
    """(kind, payload, segment name) of every record of a request: its halves, feedback, reviews; newest worker last.
    `since`: segments that were written last before that are not read. Only frames that hold the id are parsed.
    """
    needle = orjson.dumps(request_id)
    oldest = since.timestamp() if since is not None else 0.0
    for worker in list_workers(root):
        for segment in list_segments(worker):
            try:
                facts = segment.path.stat()
                if facts.st_mtime < oldest or facts.st_size == 0:
                    continue
                with segment.path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    for kind, payload in _holding(data, needle):
                        if payload.get("request_id") == request_id:
                            yield kind, payload, segment.name
            except FileNotFoundError:  # retention took it away
                continue


def _holding(data: mmap.mmap, needle: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """Kind and payload of the whole frames that hold `needle`."""
    at = data.find(needle)
    while at >= 0:
        # The magic's bytes never occur in a payload (frames.py), so the last one before the text begins its frame.
        start = data.rfind(MAGIC, 0, at)
        frame = decode_at(data, start) if start >= 0 else None
        if isinstance(frame, Frame):
            payload = parse_payload(frame)
            if payload is not None:
                yield frame.kind, payload
        at = data.find(needle, frame.end if isinstance(frame, Frame) else at + 1)


def find(root: Path, request_id: str, since: datetime | None = None) -> FoundHalves:
    """Both halves of a request from whichever worker wrote them; `since` as in `records_of`."""
    halves: dict[int, tuple[dict[str, Any], str]] = {}
    for kind, payload, segment in records_of(root, request_id, since):
        if kind in (FrameKind.REQUEST, FrameKind.RESPONSE):
            halves.setdefault(kind, (payload, segment))
    request, response = halves.get(FrameKind.REQUEST), halves.get(FrameKind.RESPONSE)
    return FoundHalves(
        request[0] if request else None,
        response[0] if response else None,
        request[1] if request else None,
        response[1] if response else None,
    )
