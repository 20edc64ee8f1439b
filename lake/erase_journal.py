"""Records of a journal that belong to an erased subject: found, and overwritten where they lie.

Reads and writes `data/journal/`, `data/private-journal/` and `data/quarantine/`. A record becomes a frame of kind
ERASED of the same length, sequence number and place, its payload blank, its checksum right: no offset, mark or name
of a quarantined range moves, and the ledger counts it as before. Invariants: only what every mark has passed is
overwritten; a closed segment is replaced whole, in one step; in the segment that a live writer appends to, the frames
are overwritten in place, while nobody else reads (a power cut within that millisecond leaves a damaged frame, which
the next run overwrites). Safe to kill and to repeat.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from lake.erase_search import Words
from lake.erased_ids import NAMING_FIELDS
from lake.files import fsync_dir, read_json, write_json_atomic
from lake.journal.frames import HEADER_BYTES, Damage, Frame, encode, scan
from lake.journal.index import ID_FIELD
from lake.journal.quarantine import kept
from lake.journal.reader import Segment, is_worker_alive, list_segments, list_workers, parse_payload
from lake.schemas.records import ErasedAs, FrameKind

Payload = dict[str, Any]
Passed = Callable[[str, int, int], bool]  # segment name, offset and kind of a record: whether ingest is past it


@dataclass(frozen=True, slots=True)
class Spot:
    """One record, or damaged range, of the subject. `offset` and `size` are bytes within its segment."""

    segment: Segment
    offset: int
    size: int
    kind: int  # FrameKind; -1: a damaged range
    seq: int
    counts_as: ErasedAs = ErasedAs.RECORD
    follows: tuple[str, int] | None = None  # of a response: segment and offset of its request, where it is here

    def to_dict(self) -> dict[str, Any]:
        return {"segment": self.segment.name, "offset": self.offset, "bytes": self.size}


def payloads(root: Path) -> Iterator[tuple[int, Payload]]:
    """Kind and payload of every record of a journal that is an object."""
    for worker in list_workers(root):
        for segment in list_segments(worker):
            for found in scan(_bytes(segment)):
                if isinstance(found, Frame) and found.kind in ID_FIELD and (payload := parse_payload(found)):
                    yield found.kind, payload


def shared_words(root: Path, ids: frozenset[str], words: Words, quarantine: Path | None = None) -> set[str]:
    """Those of the words that records of others hold too (the lake has them masked, the journal as they were said)."""
    shared: set[str] = set()
    for worker in list_workers(root):
        held = kept(quarantine, worker) if quarantine is not None else set[tuple[str, int]]()
        for segment in list_segments(worker):
            texts: list[str] = []
            for found in scan(_bytes(segment)):
                if isinstance(found, Damage) or found.kind not in ID_FIELD or (segment.name, found.offset) in held:
                    continue
                payload = parse_payload(found)
                if payload is not None and not belongs(found.kind, payload, ids):
                    texts += [value for value in payload.values() if isinstance(value, str)]
            shared |= words.among(pl.Series(texts, dtype=pl.String))
    return shared


def belongs(kind: int, payload: Mapping[str, Any], ids: frozenset[str]) -> bool:
    """Whether a record is one of `ids`, or names one of them."""
    own = ID_FIELD.get(kind)
    names = (own, *NAMING_FIELDS) if own else NAMING_FIELDS
    return any(payload.get(name) in ids for name in names if isinstance(payload.get(name), str))


def find_spots(root: Path, ids: frozenset[str], words: Words, quarantine: Path | None = None) -> list[Spot]:
    """Every record of `ids`, in the order of writing; what is no record, or stands in quarantine, by `words`."""
    spots: list[Spot] = []
    for worker in list_workers(root):
        held = kept(quarantine, worker) if quarantine is not None else set[tuple[str, int]]()
        spots += _of_worker(worker, ids, words, held)
    return spots


def _of_worker(worker: Path, ids: frozenset[str], words: Words, held: set[tuple[str, int]]) -> Iterator[Spot]:
    segments = list_segments(worker)
    alive = is_worker_alive(worker)
    requests: dict[str, tuple[str, int]] = {}
    answered: set[str] = set()
    erased_seqs: set[int] = set()
    first_seq: int | None = None
    for position, segment in enumerate(segments):
        data = _bytes(segment)
        for found in scan(data):
            if isinstance(found, Damage):
                last = alive and position == len(segments) - 1 and found.end == len(data)
                if not last and words.is_in(data[found.offset : found.end]):
                    yield Spot(segment, found.offset, found.length, -1, 0)
                continue
            if found.kind in (FrameKind.SEGMENT_HEADER, FrameKind.WORKER_END):
                continue
            first_seq = found.seq if first_seq is None else first_seq
            if found.kind == FrameKind.ERASED:
                erased_seqs.add(found.seq)
                continue
            payload = parse_payload(found)
            if payload is None or not belongs(found.kind, payload, ids):
                nobodys = payload is None or found.kind not in ID_FIELD or (segment.name, found.offset) in held
                if nobodys and words.is_in(found.payload):
                    yield Spot(segment, found.offset, found.size, found.kind, found.seq)
                continue
            key = str(payload.get("request_id"))
            if found.kind == FrameKind.REQUEST:
                requests.setdefault(key, (segment.name, found.offset))
            counts_as, follows = ErasedAs.RECORD, None
            if found.kind == FrameKind.RESPONSE:
                pruned = segments[0].number > 1 and _number(payload.get("request_seq")) < first_seq
                if key in requests:
                    follows = requests[key]
                    counts_as = ErasedAs.DUPLICATE_RESPONSE if key in answered else ErasedAs.RECORD
                    answered.add(key)
                elif pruned and payload.get("request_seq") not in erased_seqs:
                    counts_as = ErasedAs.NOTHING
            yield Spot(segment, found.offset, found.size, found.kind, found.seq, counts_as, follows)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 1 << 63


def _bytes(segment: Segment) -> bytes:
    try:
        return segment.path.read_bytes()
    except FileNotFoundError:  # retention took it away
        return b""


def passed_by(spots: list[Spot], passed: Passed) -> tuple[list[Spot], list[Spot]]:
    """(may be overwritten, must wait): a request still waits for its second half, or ingest is not past the record."""
    ready: list[Spot] = []
    waiting: list[Spot] = []
    for spot in spots:
        place = (spot.segment.name, spot.offset, spot.kind)
        if spot.follows is not None:
            place = (*spot.follows, FrameKind.REQUEST)
        (ready if passed(*place) else waiting).append(spot)
    return ready, waiting


def overwrite(spots: list[Spot], alone: bool) -> list[Spot]:
    """Blank the records; those that stay are returned: in the segment of a live writer while others read (not `alone`).

    Requests come before their responses, so that an interruption leaves no request that waits for an answer for ever.
    Raises `OSError`.
    """
    by_segment: dict[Path, list[Spot]] = {}
    for spot in spots:
        by_segment.setdefault(spot.segment.path, []).append(spot)
    left: list[Spot] = []
    for path, several in by_segment.items():
        newest = list_segments(path.parent)[-1:]
        if is_worker_alive(path.parent) and newest and newest[0].path == path:
            if alone:
                _in_place(path, several)
            else:
                left += several
        else:
            _replaced(path, several)
    return left


def _blank(spot: Spot) -> bytes:
    if spot.kind < 0:  # stays a damaged range of the same length, which the quarantine's name tells
        return bytes(spot.size)
    return encode(FrameKind.ERASED, spot.seq, b" " * (spot.size - HEADER_BYTES), flags=spot.counts_as)


def _in_place(path: Path, spots: list[Spot]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for spot in spots:
            os.pwrite(descriptor, _blank(spot), spot.offset)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _replaced(path: Path, spots: list[Spot]) -> None:
    """The whole segment anew, with its times: retention and look-ups go by them."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        shutil.copy2(path, temporary)
        facts = path.stat()
        _in_place(temporary, spots)
        os.utime(temporary, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        temporary.replace(path)
        fsync_dir(path.parent)
    except FileNotFoundError:  # retention took the segment away
        return
    finally:
        temporary.unlink(missing_ok=True)


def quarantined(root: Path, spots: list[Spot], words: Words) -> list[Path]:
    """`.json` files of the ranges kept in quarantine that hold something of the subject."""
    places = {
        f"{spot.segment.path.parent.name}/{spot.segment.path.stem}-{spot.offset:012d}-{spot.size}" for spot in spots
    }
    found: list[Path] = []
    for facts in sorted(root.glob("*/*.json")):
        data = facts.with_suffix(".bin")
        if f"{facts.parent.name}/{facts.stem}" in places or (data.exists() and words.is_in(data.read_bytes())):
            found.append(facts)
    return found


def clear_quarantine(files: list[Path]) -> None:
    """Take the bytes away; that a range was kept stays, the ledger counts it. Safe to repeat."""
    for path in files:
        facts = read_json(path)
        kept = {name: facts.get(name) for name in ("segment", "offset", "length")}
        write_json_atomic(path, {**kept, "reason": "erased"})  # a reason may quote a value, a hash tell a short text
        path.with_suffix(".bin").unlink(missing_ok=True)
        fsync_dir(path.parent)
