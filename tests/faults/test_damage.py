"""Damage, short form; a scanner that hides damage, one that gives up and one that checks nothing are caught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lake.journal.frames import HEADER_BYTES, MAGIC, Damage, Frame, scan
from tests.faults import damage
from tests.faults.harness import CI_SEED


def test_no_damage_is_hidden_and_no_whole_frame_lost(tmp_path: Path) -> None:
    tally = damage.run(3000, CI_SEED, tmp_path, size=1500)
    assert tally.failures == []
    assert tally.counts["mutants"] == 3000 and tally.counts["cuts"] > 1500 < tally.counts["flipped bits"] / 8


def skips_damage(data: bytes) -> Iterator[Frame | Damage]:
    """Yields the good frames and says nothing of the rest."""
    return (item for item in scan(data) if isinstance(item, Frame))


def gives_up(data: bytes) -> Iterator[Frame | Damage]:
    """Stops at the first damage instead of looking for the next frame."""
    for item in scan(data):
        if isinstance(item, Damage):
            yield Damage(item.offset, len(data) - item.offset, item.reason)
            return
        yield item


def checks_nothing(data: bytes) -> Iterator[Frame | Damage]:
    """Believes each header without its checksum."""
    at = 0
    while at < len(data):
        size = HEADER_BYTES + int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] != MAGIC or at + size > len(data):
            yield Damage(at, len(data) - at, "bad_magic")
            return
        yield Frame(at, size, data[at + 8], 0, 0, data[at + HEADER_BYTES : at + size])
        at += size


@pytest.mark.parametrize("scanner", [skips_damage, gives_up, checks_nothing])
def test_a_planted_bug_is_caught(tmp_path: Path, scanner: damage.Scan) -> None:
    assert damage.run(0, CI_SEED, tmp_path, scanner=scanner, size=600).failures
    mutants = damage.run(200, CI_SEED, tmp_path, scanner=scanner, size=0)
    assert mutants.failures and f"seed {CI_SEED}" in mutants.failures[0][:13]
