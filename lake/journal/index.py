"""What one worker's segments hold, without the payloads: frames by kind, halves paired, damage, what is
pending.

Reads the segments of one worker directory; writes nothing. Invariant: every frame and every damaged range of
the scanned part is in exactly one of the lists, so that counting them counts the journal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lake.journal.frames import Damage, Frame, scan
from lake.journal.reader import Segment, is_worker_alive, list_segments, parse_payload
from lake.schemas.records import ErasedAs, FrameKind

ID_FIELD: dict[int, str] = {
    FrameKind.REQUEST: "request_id",
    FrameKind.RESPONSE: "request_id",
    FrameKind.REVIEW: "review_id",
    FrameKind.FEEDBACK: "feedback_id",
}


@dataclass(slots=True, eq=False)
class Entry:
    """One data frame. `response`: its second half (requests only). `resolved`: no second half will come."""

    segment: Segment
    offset: int
    size: int
    kind: int
    seq: int
    key: str
    response: Entry | None = None
    resolved: bool = True
    timestamp: str = ""  # of a request without its second half
    payload: bytes | None = field(default=None, repr=False)  # where it is at hand (lake/journal/blocks.py)

    @property
    def frames(self) -> int:
        return 1 if self.response is None else 2


@dataclass(frozen=True, slots=True)
class Bad:
    """A range for quarantine: damage, or a frame whose payload is no record."""

    segment: Segment
    offset: int
    length: int
    reason: str


@dataclass(slots=True)
class WorkerIndex:
    """One worker, as far as its bytes are final. `ends`: per segment name, where the final part ends."""

    directory: Path
    alive: bool
    segments: list[Segment] = field(default_factory=list[Segment])
    ends: dict[str, int] = field(default_factory=dict[str, int])
    entries: dict[int, list[Entry]] = field(default_factory=dict[int, list[Entry]])  # all but RESPONSE
    bad: list[Bad] = field(default_factory=list[Bad])
    repeats: list[Entry] = field(default_factory=list[Entry])  # second halves of requests that have one
    erased_repeats: int = 0
    erased_seqs: set[int] = field(default_factory=set[int])  # of records that erasures overwrote
    forgotten: set[tuple[str, int]] = field(default_factory=set[tuple[str, int]])  # responses whose request is gone
    journalled: int = 0  # data frames and damaged ranges

    @property
    def duplicate_responses(self) -> int:
        return len(self.repeats) + self.erased_repeats

    def pending(self) -> Entry | None:
        """The earliest request that may still get its second half; the committed offset never passes it."""
        for entry in self.entries[FrameKind.REQUEST]:
            if not entry.resolved:
                return entry
        return None


def index_worker(directory: Path) -> WorkerIndex:
    """Read a worker's segments. Liveness is asked first: what a dead worker wrote is final."""
    index = WorkerIndex(directory, alive=is_worker_alive(directory), segments=list_segments(directory))
    index.entries = {FrameKind.REQUEST: [], FrameKind.REVIEW: [], FrameKind.FEEDBACK: []}
    requests: dict[str, Entry] = {}
    failed: list[tuple[int, int]] = []
    first_seq: int | None = None
    for position, segment in enumerate(index.segments):
        in_flight = index.alive and position == len(index.segments) - 1
        try:
            data = segment.path.read_bytes()
        except FileNotFoundError:  # a segment that could not be opened was taken away again; it held no record
            continue
        index.ends[segment.name] = len(data)
        for found in scan(data):
            if isinstance(found, Damage):
                if in_flight and found.end == len(data):
                    index.ends[segment.name] = found.offset  # the rest of this frame may be on its way
                else:
                    index.journalled += 1
                    index.bad.append(Bad(segment, found.offset, found.length, found.reason))
                continue
            if found.kind == FrameKind.WORKER_END:
                continue
            if found.kind == FrameKind.ERASED:
                first_seq = found.seq if first_seq is None else first_seq
                _add_erased(index, found)
                continue
            payload = parse_payload(found)
            if found.kind == FrameKind.SEGMENT_HEADER:
                failed.extend(failed_ranges(payload))
                continue
            first_seq = found.seq if first_seq is None else first_seq
            pruned_before = first_seq if index.segments[0].number > 1 else 0
            _add(index, requests, segment, found, payload, pruned_before)
    for entry in index.entries[FrameKind.REQUEST]:
        told_failed = any(low <= entry.seq <= high for low, high in failed)
        entry.resolved = (
            entry.response is not None or not index.alive or told_failed or entry is not requests[entry.key]
        )
    return index


def _add(
    index: WorkerIndex,
    requests: dict[str, Entry],
    segment: Segment,
    frame: Frame,
    payload: dict[str, Any] | None,
    pruned_before: int,
) -> None:
    key = payload.get(ID_FIELD.get(frame.kind, "")) if payload is not None else None
    reason = why_no_record(frame.kind, frame.flags, payload)
    request = requests.get(key) if isinstance(key, str) else None
    if not reason and payload and frame.kind == FrameKind.RESPONSE and request is None:
        asked = payload.get("request_seq")
        if isinstance(asked, int) and asked < pruned_before:
            index.forgotten.add((segment.name, frame.offset))
            return  # its request went to the table and its segment was removed since
        if asked in index.erased_seqs:  # an erasure that was interrupted has overwritten its request alone
            index.journalled += 1
            return
        reason = "orphan_response"
    index.journalled += 1
    if reason or not isinstance(key, str) or payload is None:
        index.bad.append(Bad(segment, frame.offset, frame.size, reason))
        return
    entry = Entry(segment, frame.offset, frame.size, frame.kind, frame.seq, key)
    if frame.kind == FrameKind.RESPONSE:
        assert request is not None
        if request.response is not None:
            index.repeats.append(entry)
        else:
            request.response = entry
        return
    index.entries[frame.kind].append(entry)
    if frame.kind == FrameKind.REQUEST:
        requests.setdefault(key, entry)
        time = payload.get("timestamp")
        entry.timestamp = time if isinstance(time, str) else ""


def why_no_record(kind: int, flags: int, payload: dict[str, Any] | None) -> str:
    """Why a frame with this payload (None: no object) is no record of ours; empty where it is one."""
    id_field = ID_FIELD.get(kind)
    if id_field is None:
        return "unknown_kind"
    if flags:
        return "unknown_flags"
    if payload is None:
        return "not_json"
    key = payload.get(id_field)
    return "" if isinstance(key, str) and key else f"no_{id_field}"


def _add_erased(index: WorkerIndex, frame: Frame) -> None:
    """A record that was overwritten (`lake/erase_journal.py`) counts as before; the other side of the books has it as
    dropped, or in quarantine.
    """
    index.erased_seqs.add(frame.seq)
    index.journalled += frame.flags != ErasedAs.NOTHING
    index.erased_repeats += frame.flags == ErasedAs.DUPLICATE_RESPONSE


def failed_ranges(header: dict[str, Any] | None) -> list[tuple[int, int]]:
    """`failed` of a segment header: sequence numbers whose callers were told that the journal failed."""
    ranges: list[tuple[int, int]] = []
    for pair in (header or {}).get("failed") or []:
        match pair:
            case [int(low), int(high)]:
                ranges.append((low, high))
            case _:
                continue
    return ranges
