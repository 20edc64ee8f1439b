"""Failing system calls, short form; a writer that repeats a failed sync, or ignores a failed write, is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import syscalls
from tests.faults.harness import CI_SEED


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    if why := syscalls.why_not():
        pytest.skip(f"{why}; tests/lake/test_journal_faults.py fails every call of the Disk seam everywhere")
    return tmp_path


@pytest.mark.parametrize(("call", "first"), [("write", 6), ("fdatasync", 5), ("openat", 3)])
def test_whichever_call_fails_nothing_acknowledged_is_lost(scratch: Path, call: str, first: int) -> None:
    """Every errno, once and for good, in both modes, of one call in the middle of the run."""
    tally = syscalls.run(12, CI_SEED, scratch, call=call, phase="running", first=first)
    assert tally.failures == []
    assert tally.counts["faults"] >= 12 and tally.counts["refused"] > 10 and tally.counts["acknowledged"] > 50


@pytest.mark.parametrize(
    ("bug", "call", "what"), [("stubborn", "fdatasync", "used again"), ("careless", "write", "are lost")]
)
def test_a_planted_bug_is_caught(scratch: Path, bug: str, call: str, what: str) -> None:
    tally = syscalls.run(24, CI_SEED, scratch, bug=bug, call=call, phase="running")
    assert any(what in failure for failure in tally.failures)
