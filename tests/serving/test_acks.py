"""Acknowledgements of workers that come and go while a switch reads them."""

from __future__ import annotations

import fcntl
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.acks import AckWriter, live_acks


def test_a_worker_that_starts_is_never_taken_for_a_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that came between a lock file's name and its lock removed it: that worker stayed invisible."""

    def flock_after_a_reader(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX:  # the writer's
            monkeypatch.undo()
            live_acks(tmp_path)
        fcntl.flock(descriptor, operation)

    monkeypatch.setattr("serving.acks.fcntl", SimpleNamespace(**{**vars(fcntl), "flock": flock_after_a_reader}))
    writer = AckWriter(tmp_path, "gateway-1")
    assert [ack.worker for ack in live_acks(tmp_path)] == ["gateway-1"]
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_has_not_read_its_backend_yet_is_waited_for(tmp_path: Path) -> None:
    writer = AckWriter(tmp_path, "gateway-1")
    assert [(ack.generation, ack.ok, ack.reason) for ack in live_acks(tmp_path)] == [(-1, True, "starting")]
    writer.write(4, ok=True, model="m")
    assert [(ack.generation, ack.model) for ack in live_acks(tmp_path)] == [(4, "m")]
    writer.close()
