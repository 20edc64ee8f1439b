"""Promise 4: damage to a segment is never skipped in silence, and costs nothing but what it hit.

Pure Python, no disk: a 16 KB segment cut at every offset, with every bit flipped, then mutants (cut, flipped,
overwritten, zeroed, inserted, deleted, doubled, swapped, spliced from another segment). The oracle knows nothing of
the scanner: every original frame whose bytes still stand somewhere must come back, nothing else may, and frames and
damage must cover every byte.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import orjson

from lake.journal.frames import MAGIC, Damage, Frame, encode, scan
from tests.faults.harness import Progress, Tally, cycles_of, quiet

NAME, PROMISE, UNIT, FULL = "damage", "4", "mutants", 1_000_000
SEGMENT_BYTES = 16 << 10
Scan = Callable[[bytes], Iterator[Frame | Damage]]


def make_segment(rng: random.Random, size: int, first_seq: int = 1) -> tuple[bytes, list[bytes]]:
    """About `size` bytes of frames as the gateway writes them, and each frame by itself. No two frames are alike."""
    frames: list[bytes] = []
    while sum(map(len, frames)) < size:
        seq = first_seq + len(frames)
        text = "".join(rng.choice('도구검색 a1"\\\n') for _ in range(rng.randrange(60)))
        frames.append(encode(rng.randrange(6), seq, orjson.dumps({"request_id": f"id-{seq}", "q": text})))
    return b"".join(frames), frames


def wrong(data: bytes, frames: list[bytes], scanner: Scan = scan) -> str:
    """What the scanner gets wrong about `data`; empty where it is right. `frames`: all that ever were written."""
    position = 0
    found: list[tuple[int, bytes]] = []
    for item in scanner(data):
        if item.offset != position or item.end <= position:
            return f"byte {position} is in no frame and no damage, the next item begins at {item.offset}"
        position = item.end
        if isinstance(item, Frame):
            found.append((item.offset, data[item.offset : item.end]))
    if position != len(data):
        return f"bytes {position} to {len(data)} are in no frame and no damage"
    known = set(frames)
    invented = [at for at, raw in found if raw not in known]
    if invented:
        return f"a frame at {invented[0]} that was never written"
    places = set(found)
    for raw in frames:
        at = data.find(raw)
        while at >= 0:
            if (at, raw) not in places:
                return f"the whole frame at {at} was lost"
            at = data.find(raw, at + 1)
    return ""


def mutate(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """One to four random changes; `other` is another segment to splice from."""
    buffer = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(buffer) + 1)
        length = rng.choice([1, 2, 4, 22, 64, 512])
        piece = bytes(buffer[at : at + length])
        match rng.randrange(10):
            case 0:
                del buffer[at:]
            case 1 if at < len(buffer):
                buffer[at] ^= 1 << rng.randrange(8)
            case 2:
                buffer[at : at + length] = rng.randbytes(len(piece))
            case 3:
                buffer[at : at + length] = bytes(len(piece))
            case 4:
                buffer[at:at] = rng.randbytes(length)
            case 5:
                del buffer[at : at + length]
            case 6:
                buffer[at:at] = piece
            case 7:
                there = rng.randrange(len(buffer) + 1)
                buffer[there : there + length], buffer[at : at + length] = piece, buffer[there : there + length]
            case 8:
                start = rng.randrange(len(other))
                buffer[at:at] = other[start : start + length]
            case _:
                buffer[at:at] = MAGIC + rng.randbytes(rng.randrange(20))
        if not buffer:
            return b""
    return bytes(buffer)


def run(
    cycles: int, seed: int, scratch: Path, progress: Progress = quiet, scanner: Scan = scan, size: int = SEGMENT_BYTES
) -> Tally:
    """Every cut and every flipped bit of one segment of `size` bytes, then `cycles` mutants of small ones."""
    tally = Tally()
    check = partial(_check, tally, scanner)
    data, frames = make_segment(random.Random(seed), size)
    for cut in range(len(data) + 1):
        check(data[:cut], frames, seed, f"cut at byte {cut}")
        tally.counts["cuts"] += 1
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        check(bytes(flipped), frames, seed, f"bit {bit} flipped")
        tally.counts["flipped bits"] += 1
        if bit % 1000 == 0:
            progress(bit, len(data) * 8, tally)
        if len(tally.failures) >= 10:
            return tally
    for mutant_seed, rng in cycles_of(cycles, seed, tally, progress):
        small, other, written = _pair(mutant_seed // 500)
        check(mutate(rng, small, other), written, mutant_seed, "mutant")
        tally.counts["mutants"] += 1
    return tally


@lru_cache(maxsize=2)
def _pair(seed: int) -> tuple[bytes, bytes, list[bytes]]:
    """Two small segments and all frames of both; five hundred mutants share them."""
    rng = random.Random(seed)
    small, own = make_segment(rng, 600)
    other, others = make_segment(rng, 300, first_seq=1000)
    return small, other, own + others


def _check(tally: Tally, scanner: Scan, data: bytes, frames: list[bytes], seed: int, what: str) -> None:
    error = wrong(data, frames, scanner)
    tally.check(not error, seed, f"{what}: {error}")
