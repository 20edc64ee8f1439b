"""Crash states, short form; a writer that acknowledges before the sync, or forgets its folder, is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import crash_replay
from tests.faults.harness import CI_SEED


def test_every_crash_state_holds_what_was_acknowledged(tmp_path: Path) -> None:
    tally = crash_replay.run(8, CI_SEED, tmp_path)
    assert tally.failures == []
    assert tally.counts["acknowledged"] == 8 * 32 and tally.counts["crash states"] > 1000


@pytest.mark.parametrize("disk", [crash_replay.NoFileSync, crash_replay.NoFolderSync])
def test_a_writer_that_leaves_out_a_sync_is_caught(tmp_path: Path, disk: type[crash_replay.RecordingDisk]) -> None:
    assert "lost" in crash_replay.run(1, CI_SEED, tmp_path, disk=disk).failures[0]
