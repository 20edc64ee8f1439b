"""Frames: every truncation and every bit flip of a segment is seen, and nothing else is lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake.journal.frames import (
    HEADER_BYTES,
    MAGIC,
    MAX_PAYLOAD_BYTES,
    Damage,
    Frame,
    FrameTooLargeError,
    decode_at,
    encode,
    scan,
)


def segment(count: int, size: int = 12) -> tuple[bytes, list[int]]:
    """Bytes of `count` frames and the offset at which each begins, plus the end."""
    data, offsets = b"", []
    for seq in range(1, count + 1):
        offsets.append(len(data))
        data += encode(1 + seq % 4, seq, f'{{"n":"{seq:0{size - 8}d}"}}'.encode())
    return data, [*offsets, len(data)]


def seqs(data: bytes) -> list[int]:
    return [found.seq for found in scan(data) if isinstance(found, Frame)]


def test_a_frame_comes_back_as_it_was() -> None:
    data = encode(3, 2**63, "한글".encode(), flags=7)
    assert len(data) == HEADER_BYTES + 6 == 28
    assert decode_at(memoryview(data), 0) == Frame(0, 28, 3, 7, 2**63, "한글".encode())


def test_the_layout_on_disk_never_changes() -> None:
    assert encode(1, 5, b"{}").hex() == "ff4d4afe0200000001000500000000000000a8793ae17b7d"


def test_payloads_are_bounded() -> None:
    assert len(encode(1, 1, b"x" * MAX_PAYLOAD_BYTES)) == HEADER_BYTES + MAX_PAYLOAD_BYTES
    with pytest.raises(FrameTooLargeError):
        encode(1, 1, b"x" * (MAX_PAYLOAD_BYTES + 1))


def test_truncation_at_every_offset_keeps_all_whole_frames_and_reports_the_rest() -> None:
    data, offsets = segment(40)
    for cut in range(len(data) + 1):
        found = list(scan(data[:cut]))
        whole = sum(1 for end in offsets[1:] if end <= cut)
        assert [frame.seq for frame in found if isinstance(frame, Frame)] == list(range(1, whole + 1))
        damage = [item for item in found if isinstance(item, Damage)]
        start = offsets[whole]
        assert damage == ([Damage(start, cut - start, "torn_tail")] if cut > start else [])


def test_every_single_bit_flip_costs_one_frame_and_is_reported() -> None:
    data, offsets = segment(8)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        hit = next(number for number, end in enumerate(offsets[1:]) if bit // 8 < end)
        found = list(scan(bytes(flipped)))
        assert [item.seq for item in found if isinstance(item, Frame)] == [n for n in range(1, 9) if n != hit + 1]
        damage = [item for item in found if isinstance(item, Damage)]
        assert [(item.offset, item.length) for item in damage] == [(offsets[hit], offsets[hit + 1] - offsets[hit])]
        if hit < 7:
            assert damage[0].reason != "torn_tail"


def test_a_length_beyond_the_limit_or_the_file_does_not_hide_what_follows() -> None:
    data, offsets = segment(3)
    for length, reason in ((2**32 - 1, "bad_length"), (MAX_PAYLOAD_BYTES, "bad_length"), (13, "bad_crc")):
        broken = bytearray(data)
        broken[offsets[1] + 4 : offsets[1] + 8] = length.to_bytes(4, "little")
        assert seqs(bytes(broken)) == [1, 3]
        assert [item.reason for item in scan(broken) if isinstance(item, Damage)] == [reason]


def test_a_tail_of_zeros_as_a_power_cut_leaves_it_is_damage() -> None:
    data, _ = segment(2)
    assert list(scan(data + bytes(4096)))[-1] == Damage(len(data), 4096, "bad_magic")


def test_resynchronising_finds_a_magic_across_the_search_step() -> None:
    frame = encode(1, 9, b"{}")
    for before in (2**20 - 2, 2**20, 2**20 + 1):
        found = list(scan(b"\0" * before + frame))
        assert [item.offset for item in found] == [0, before]
        assert isinstance(found[1], Frame)


def test_no_text_can_imitate_a_frame() -> None:
    with pytest.raises(UnicodeDecodeError):
        MAGIC.decode("utf-8")
    inner = encode(1, 999, b"{}").decode("latin-1")
    outer = encode(1, 1, f'{{"q":"{inner}"}}'.encode())
    assert seqs(outer) == [1]
    broken = bytearray(outer)
    broken[0] ^= 1  # even where the outer frame is lost, the inner text is no frame
    assert seqs(bytes(broken)) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=60), st.integers(0, 5)), max_size=12), st.integers(0, 40))
def test_scan_accounts_for_every_byte_of_anything(parts: list[bytes | int], cut: int) -> None:
    data = b"".join(encode(1, n, b"x" * part) if isinstance(part, int) else part for n, part in enumerate(parts))
    data = data[: max(0, len(data) - cut)]
    position = 0
    for item in scan(data):
        assert item.offset == position and item.end > position
        if isinstance(item, Frame):
            assert encode(item.kind, item.seq, item.payload, item.flags) == data[item.offset : item.end]
        position = item.end
    assert position == len(data)
