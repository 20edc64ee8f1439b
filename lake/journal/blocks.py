"""What is new in one worker's journal, in blocks of bounded size, each read once.

Reads the segments of one worker directory from the committed marks on; writes nothing. A block holds requests in
their order up to `cut`, the place that the mark of `requests` moves to: the first request that may still get its
second half, or the first one that the block has no room for. Second halves are looked for beyond the cut; those that
were taken from there are named (`ahead`), so that the next run leaves them alone. Invariants: every frame and damaged
range of what was read is in one block, or is pending behind the last cut; a segment wholly before the marks is not
opened; memory is bounded by the block (and by what lies behind an open request, without payloads beyond a limit).
"""

from __future__ import annotations

import mmap
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lake.journal.frames import Damage, Frame, bulk_scan
from lake.journal.index import ID_FIELD, Bad, Entry, failed_ranges, why_no_record
from lake.journal.reader import Segment, is_worker_alive, list_segments, parse_payload
from lake.schemas.records import ErasedAs, FrameKind

Place = tuple[int, int]  # segment number, byte offset
_HELD_BYTES = 256 << 20  # of payloads behind an open request; those of later ones are read again
_PEEKED: dict[int, bytes] = {
    FrameKind.REQUEST: b'{"request_id":"',
    FrameKind.RESPONSE: b'{"request_id":"',
    FrameKind.REVIEW: b'{"review_id":"',
    FrameKind.FEEDBACK: b'{"feedback_id":"',
}


@dataclass(frozen=True, slots=True)
class Progress:
    """What the tables say of one worker. `marks`: by segment, where `requests` stands; `others`: by kind likewise.

    `ahead`: second halves behind the mark that are in the lake already. `adopt`: an earlier version wrote the marks and
    counted nothing; everything is read again, and what lies before the marks is only counted.
    """

    marks: Mapping[str, int] = field(default_factory=dict[str, int])
    others: Mapping[int, Mapping[str, int]] = field(default_factory=dict[int, Mapping[str, int]])
    ahead: frozenset[tuple[str, int]] = frozenset()
    adopt: bool = False


@dataclass(slots=True)
class Block:
    """`entries`: what becomes rows, by kind. `repeats`: second halves of requests that have one; `late`: of requests
    that were not read. `bad`: new ranges for quarantine, wherever they lie; `bad_before`: those before the cut.
    `marks`: of `requests` afterwards; `other_marks`: of the tables whose records wait for nothing.
    """

    entries: dict[int, list[Entry]] = field(default_factory=dict[int, list[Entry]])
    repeats: list[Entry] = field(default_factory=list[Entry])
    late: list[Entry] = field(default_factory=list[Entry])
    bad: list[Bad] = field(default_factory=list[Bad])
    bad_before: list[Bad] = field(default_factory=list[Bad])
    adopted: Counter[tuple[int, str]] = field(default_factory=Counter[tuple[int, str]])  # by kind and segment
    adopted_repeats: Counter[str] = field(default_factory=Counter[str])
    marks: dict[str, int] = field(default_factory=dict[str, int])
    other_marks: dict[str, int] = field(default_factory=dict[str, int])
    ahead: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    @property
    def requests(self) -> list[Entry]:
        return self.entries[FrameKind.REQUEST]


@dataclass(slots=True)
class Rest:
    """What stays behind the last cut: places of frames and damage that are neither in the lake nor passed."""

    places: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    oldest: str = ""  # timestamp of the request that holds the mark


class WorkerScan:
    """One pass over what a worker wrote beyond `progress`. Liveness is asked first: what a dead worker wrote is final.

    `strict`: every payload is parsed for its id, instead of looked into (ten times slower; for damaged payloads).
    `max_rows`, `max_bytes` (of payloads): of one block.
    """

    def __init__(self, directory: Path, max_rows: int, max_bytes: int, *, strict: bool = False) -> None:
        self.directory = directory
        self.alive = is_worker_alive(directory)
        self.segments = list_segments(directory)
        self.rest = Rest()
        self.sizes: dict[str, int] = {}
        for segment in list(self.segments):
            try:
                self.sizes[segment.name] = segment.path.stat().st_size
            except FileNotFoundError:  # could not be opened and was taken away again; it held no record
                self.segments.remove(segment)
        self._max_rows, self._max_bytes, self._strict = max_rows, max_bytes, strict
        self._queue: deque[Entry] = deque()  # requests behind the mark, in order
        self._ready = self._ready_bytes = 0  # of the queue's head: decided, so far
        self._others: dict[int, list[Entry]] = {FrameKind.REVIEW: [], FrameKind.FEEDBACK: []}
        self._other_rows = self._other_bytes = 0
        self._open: dict[str, Entry] = {}  # by id: requests that are not in the lake yet
        self._settled: dict[str, Entry] = {}  # adopt: requests before the mark that wait for their second half here
        self._extras: deque[tuple[Place, str, Entry | Bad]] = deque()
        self._new_bad: list[Bad] = []
        self._adopted: Counter[tuple[int, str]] = Counter()
        self._adopted_repeats: Counter[str] = Counter()
        self._erased_seqs: set[int] = set()
        self._ahead: list[tuple[Place, str]] = []
        self._ends: dict[str, int] = {}
        self._held_bytes = 0
        self._first_seq: int | None = None

    def is_new(self, progress: Progress) -> bool:
        """Whether anything lies beyond the marks. Opens nothing."""
        return progress.adopt or any(self.sizes[one.name] > progress.marks.get(one.name, 0) for one in self.segments)

    def blocks(self, progress: Progress) -> Iterator[Block]:
        """The blocks in order; each must be taken (committed) before the following one means anything."""
        self._progress = progress
        numbers = {segment.name: segment.number for segment in self.segments}
        self._ahead = sorted(((numbers[name], at), name) for name, at in progress.ahead if name in numbers)
        for position, segment in enumerate(self.segments):
            start = 0 if progress.adopt else progress.marks.get(segment.name, 0)
            self._ends[segment.name] = start
            if self.sizes[segment.name] <= start:
                continue
            in_flight = self.alive and position == len(self.segments) - 1
            yield from self._segment(segment, start, in_flight)
        if not self.alive:
            for entry in self._queue:
                entry.resolved = True
        while True:
            self._advance()
            yield self._cut()
            if not self._queue or not self._queue[0].resolved:
                break
        self.rest = self._left()

    def _segment(self, segment: Segment, start: int, in_flight: bool) -> Iterator[Block]:
        try:
            handle = segment.path.open("rb")
        except FileNotFoundError:
            return
        with handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            size = len(data)
            self._ends[segment.name] = max(start, self._ends[segment.name])
            for found in bulk_scan(data, start):
                if isinstance(found, Damage):
                    if in_flight and found.end == size:
                        return  # the rest of this frame may be on its way
                    self._ends[segment.name] = found.end
                    self._refuse(segment, found.offset, found.length, found.reason)
                    continue
                offset, end, kind, flags, seq, payload = found
                self._ends[segment.name] = end
                if kind == FrameKind.SEGMENT_HEADER:
                    self._tell_failed(parse_payload(Frame(offset, end - offset, kind, flags, seq, payload)))
                elif kind == FrameKind.ERASED:
                    self._adopt_erased(segment, flags, seq)
                elif kind != FrameKind.WORKER_END:
                    self._take(segment, offset, end - offset, kind, flags, seq, payload)
                    if self._is_full():
                        yield self._cut()

    def _take(self, segment: Segment, offset: int, size: int, kind: int, flags: int, seq: int, payload: bytes) -> None:
        if self._first_seq is None:
            self._first_seq = seq
        key = self._key(kind, flags, payload)
        if key is None:
            self._refuse(segment, offset, size, _reason(kind, flags, payload))
            return
        entry = Entry(segment, offset, size, kind, seq, key)
        if kind == FrameKind.RESPONSE:
            self._pair(entry, payload)
            return
        if kind != FrameKind.REQUEST:
            if offset >= self._progress.others.get(kind, {}).get(segment.name, 0):
                entry.payload = payload
                self._others[kind].append(entry)
                self._other_rows += 1
                self._other_bytes += size
            elif self._progress.adopt:
                self._adopted[kind, segment.name] += 1
            return
        if offset < self._progress.marks.get(segment.name, 0):  # adopt
            self._adopted[kind, segment.name] += 1
            self._settled.setdefault(key, entry)
            return
        self._hold(entry, payload)
        first = self._open.setdefault(key, entry)
        entry.resolved = first is not entry or key in self._settled
        self._queue.append(entry)
        self._advance()

    def _adopt_erased(self, segment: Segment, flags: int, seq: int) -> None:
        """A record that was overwritten is one that every table had passed: it was counted then."""
        self._first_seq = seq if self._first_seq is None else self._first_seq
        if self._progress.adopt and flags != ErasedAs.NOTHING:
            self._erased_seqs.add(seq)
            self._adopted[FrameKind.REQUEST, segment.name] += 1
            self._adopted_repeats[segment.name] += flags == ErasedAs.DUPLICATE_RESPONSE

    def _pair(self, entry: Entry, payload: bytes) -> None:
        if (entry.segment.name, entry.offset) in self._progress.ahead:
            return
        request = self._open.get(entry.key)
        if request is None or request.response is not None:
            self._pair_oddly(entry, payload, known=request is not None)
            return
        self._hold(entry, payload)
        request.response, request.resolved = entry, True
        self._advance()

    def _pair_oddly(self, entry: Entry, payload: bytes, *, known: bool) -> None:
        """A second half that finds no open request."""
        record = parse_payload(Frame(entry.offset, entry.size, entry.kind, 0, entry.seq, payload))
        id_ = record.get("request_id") if record is not None else None
        if record is None or id_ != entry.key:
            self._refuse(entry.segment, entry.offset, entry.size, _reason(entry.kind, 0, payload))
            return
        before = entry.offset < self._progress.marks.get(entry.segment.name, 0)
        settled = self._settled.get(entry.key)
        if settled is not None:  # adopt
            if settled.response is None:
                settled.response = entry
                self._adopted[FrameKind.REQUEST, settled.segment.name] += 1
                if not before:
                    self._ahead.append(((entry.segment.number, entry.offset), entry.segment.name))
                return
            known = True
        elif self._is_forgotten(record.get("request_seq")):
            return
        if before or record.get("request_seq") in self._erased_seqs:
            if record.get("request_seq") in self._erased_seqs:  # an interrupted erasure has overwritten its request
                self._adopted[FrameKind.REQUEST, entry.segment.name] += 1
            elif known:
                self._adopted[FrameKind.REQUEST, entry.segment.name] += 1
                self._adopted_repeats[entry.segment.name] += 1
            else:  # the earlier version kept it in quarantine, or does so now
                self._refuse(entry.segment, entry.offset, entry.size, "orphan_response")
            return
        self._extras.append(((entry.segment.number, entry.offset), "repeat" if known else "late", entry))

    def _is_forgotten(self, asked: object) -> bool:
        """Whether it answers a request whose segment retention removed; only where nothing tells what was ahead."""
        pruned = self._progress.adopt and bool(self.segments) and self.segments[0].number > 1
        return pruned and isinstance(asked, int) and self._first_seq is not None and asked < self._first_seq

    def _key(self, kind: int, flags: int, payload: bytes) -> str | None:
        start = _PEEKED.get(kind)
        if start is None or flags:
            return None
        if not self._strict and payload.startswith(start):
            key = payload[len(start) : payload.find(b'"', len(start))]
            if key and b"\\" not in key and key.isascii():
                return key.decode()
        record = parse_payload(Frame(0, 0, kind, 0, 0, payload))
        key = record.get(ID_FIELD[kind]) if record is not None else None
        return key if isinstance(key, str) and key else None

    def _hold(self, entry: Entry, payload: bytes) -> None:
        if self._held_bytes < _HELD_BYTES:
            entry.payload = payload
            self._held_bytes += len(payload)

    def _refuse(self, segment: Segment, offset: int, length: int, reason: str) -> None:
        bad = Bad(segment, offset, length, reason)
        self._new_bad.append(bad)
        self._extras.append(((segment.number, offset), "bad", bad))

    def _tell_failed(self, header: dict[str, object] | None) -> None:
        ranges = failed_ranges(header)
        for entry in self._queue if ranges else ():
            entry.resolved = entry.resolved or any(low <= entry.seq <= high for low, high in ranges)

    def _advance(self) -> None:
        """Count what the head of the queue has ready, up to a block's size."""
        while self._ready < len(self._queue) and not self._is_full():
            entry = self._queue[self._ready]
            if not entry.resolved:
                return
            self._ready += 1
            self._ready_bytes += entry.size + (entry.response.size if entry.response else 0)

    def _is_full(self) -> bool:
        rows, size = self._ready + self._other_rows, self._ready_bytes + self._other_bytes
        return rows >= self._max_rows or size >= self._max_bytes

    def _cut(self) -> Block:
        """Everything that is decided, as a block."""
        taken = [self._queue.popleft() for _ in range(self._ready)]
        self._ready = self._ready_bytes = self._other_rows = self._other_bytes = 0
        block = Block({FrameKind.REQUEST: taken, **self._others}, bad=self._new_bad)
        block.adopted, block.adopted_repeats = self._adopted, self._adopted_repeats
        self._others = {kind: [] for kind in self._others}
        self._new_bad, self._adopted, self._adopted_repeats = [], Counter(), Counter()
        following = (self._queue[0].segment.number, self._queue[0].offset) if self._queue else None
        for entry in taken:
            if self._open.get(entry.key) is entry:
                del self._open[entry.key]
            for part in (entry, entry.response):
                self._held_bytes -= len(part.payload) if part is not None and part.payload is not None else 0
            if (response := entry.response) is not None:
                self._ahead.append(((response.segment.number, response.offset), response.segment.name))
        while self._extras and (following is None or self._extras[0][0] < following):
            _, what, item = self._extras.popleft()
            if isinstance(item, Bad):
                block.bad_before.append(item)
            else:
                (block.repeats if what == "repeat" else block.late).append(item)
        self._mark(block, following)
        return block

    def _mark(self, block: Block, following: Place | None) -> None:
        for segment in self.segments:
            end = self._ends.get(segment.name)
            if end is None:
                break
            block.other_marks[segment.name] = end
            if following is None or segment.number < following[0]:
                block.marks[segment.name] = end
            elif segment.number == following[0]:
                block.marks[segment.name] = following[1]
        self._ahead = [(place, name) for place, name in self._ahead if place[1] >= block.marks.get(name, 0)]
        block.ahead = [(name, place[1]) for place, name in self._ahead]

    def _left(self) -> Rest:
        rest = Rest()
        for entry in self._queue:
            rest.places += [(one.segment.name, one.offset) for one in (entry, entry.response) if one is not None]
        rest.places += [(item.segment.name, item.offset) for _, _, item in self._extras]
        if self._queue:
            head = self._queue[0]
            record = parse_payload(Frame(0, 0, head.kind, 0, 0, head.payload or b""))
            time = record.get("timestamp") if record is not None else None
            rest.oldest = time if isinstance(time, str) else ""
        return rest


def _reason(kind: int, flags: int, payload: bytes) -> str:
    """Why a frame is no record. One that only looked unlike one has its id missing or of another type."""
    return why_no_record(kind, flags, parse_payload(Frame(0, 0, kind, 0, 0, payload))) or f"no_{ID_FIELD[kind]}"
