"""Frames of a journal segment: the only place that knows their bytes. Pure functions over a buffer.

    magic 4 | length u32 | kind u8 | flags u8 | seq u64 | crc32c u32 | payload        (little endian)

The checksum covers the first 18 bytes of the header and the payload, so a flip of any bit is seen. The magic
begins and ends with bytes that never occur in UTF-8: no text that a user sends can look like a frame inside a
payload. Invariant: `scan` accounts for every byte it was given, as a frame or as damage.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

import google_crc32c

MAGIC = b"\xffMJ\xfe"
MAX_PAYLOAD_BYTES = 1 << 20
SEGMENT_VERSION = 1  # of the frame format, written into each segment's header frame

_CHECKED = struct.Struct("<4sIBBQ")
_CRC = struct.Struct("<I")
_HEAD = struct.Struct("<4sIBBQI")
HEADER_BYTES = _CHECKED.size + _CRC.size

Buffer = bytes | bytearray | memoryview | mmap
Whole = tuple[int, int, int, int, int, bytes]  # offset, end, kind, flags, seq, payload of a frame whose checksum held
_FIND_STEP_BYTES = 1 << 20
_value, _extend = google_crc32c.value, google_crc32c.extend


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame whose checksum held. `offset` and `size` are bytes within its segment."""

    offset: int
    size: int
    kind: int  # FrameKind, or a number that a later version defines
    flags: int  # 0; anything else was written by a later version
    seq: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Damage:
    """A range that holds no valid frame. `reason`: torn_tail (a frame cut off by the end of the segment),
    bad_magic, bad_length or bad_crc."""

    offset: int
    length: int
    reason: str

    @property
    def end(self) -> int:
        return self.offset + self.length


class FrameTooLargeError(ValueError):
    """The payload is larger than `MAX_PAYLOAD_BYTES`."""


def encode(kind: int, seq: int, payload: bytes, flags: int = 0) -> bytes:
    """One frame. Raises `FrameTooLargeError`."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise FrameTooLargeError(f"payload of {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} fit a frame")
    checked = _CHECKED.pack(MAGIC, len(payload), kind, flags, seq)
    crc = google_crc32c.extend(google_crc32c.value(checked), payload)
    return b"".join((checked, _CRC.pack(crc), payload))


def decode_at(data: Buffer, offset: int) -> Frame | Damage:
    """The frame that begins at `offset`, else damage from there to the end of `data` (no resynchronising)."""
    with memoryview(data) as view:
        return _decode(view, offset)


def scan(data: Buffer, start: int = 0) -> Iterator[Frame | Damage]:
    """Frames and damaged ranges of a segment from `start` (a frame boundary) to the end of `data`, in order.

    After damage it goes on at the next magic whose checksum holds. Consecutive results touch: each begins
    where the one before ended, and the last ends with `data`.
    """
    with memoryview(data) as view:
        offset = start
        while offset < len(view):
            found = _decode(view, offset)
            if isinstance(found, Damage):
                following = _next_frame(view, offset + 1)
                if following is not None:
                    # A frame that runs past the end is a torn tail only where nothing valid comes after it.
                    reason = "bad_length" if found.reason == "torn_tail" else found.reason
                    found = Damage(offset, following - offset, reason)
            yield found
            offset = found.end


def bulk_scan(data: bytes | mmap, start: int = 0) -> Iterator[Whole | Damage]:
    """`scan` for whole journals: sound frames come as plain tuples, a third of the cost. Same results, same order."""
    offset, size = start, len(data)
    while offset + HEADER_BYTES <= size:
        magic, length, kind, flags, seq, crc = _HEAD.unpack_from(data, offset)
        begin = offset + HEADER_BYTES
        end = begin + length
        if magic == MAGIC and end <= size and length <= MAX_PAYLOAD_BYTES:
            payload = data[begin:end]
            if _extend(_value(data[offset : offset + _CHECKED.size]), payload) == crc:
                yield offset, end, kind, flags, seq, payload
                offset = end
                continue
        found = next(scan(data, offset))
        assert isinstance(found, Damage)
        yield found
        offset = found.end
    if offset < size:  # less than a header: never a frame
        yield from (item for item in scan(data, offset) if isinstance(item, Damage))


def _decode(view: memoryview, offset: int) -> Frame | Damage:
    rest = len(view) - offset
    head = bytes(view[offset : offset + HEADER_BYTES])
    if head[:4] != MAGIC[: len(head)]:
        return Damage(offset, rest, "bad_magic")
    if rest < HEADER_BYTES:
        return Damage(offset, rest, "torn_tail")
    _, length, kind, flags, seq = _CHECKED.unpack_from(head)
    if length > MAX_PAYLOAD_BYTES:
        return Damage(offset, rest, "bad_length")
    if rest < HEADER_BYTES + length:
        return Damage(offset, rest, "torn_tail")
    payload = bytes(view[offset + HEADER_BYTES : offset + HEADER_BYTES + length])
    (crc,) = _CRC.unpack_from(head, _CHECKED.size)
    if google_crc32c.extend(google_crc32c.value(head[: _CHECKED.size]), payload) != crc:
        return Damage(offset, rest, "bad_crc")
    return Frame(offset, HEADER_BYTES + length, kind, flags, seq, payload)


def _next_frame(view: memoryview, start: int) -> int | None:
    """Offset of the next valid frame at or after `start`."""
    while (start := _find_magic(view, start)) >= 0:
        if isinstance(_decode(view, start), Frame):
            return start
        start += 1
    return None


def _find_magic(view: memoryview, start: int) -> int:
    overlap = len(MAGIC) - 1
    while start < len(view):
        found = bytes(view[start : start + _FIND_STEP_BYTES + overlap]).find(MAGIC)
        if found >= 0:
            return start + found
        start += _FIND_STEP_BYTES
    return -1
