"""Maintenance that dies at each of its steps, and a whole lake kept in order while it is written, ingested and read."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from deltalake.table import TableOptimizer

from lake import maintenance
from lake.ingest import ingest
from lake.journal.writer import JournalWriter
from lake.journal_retention import remove_ingested
from lake.lookup import find_request
from lake.maintenance import maintain_table
from lake.retention import RetentionSettings
from lake.schemas.tables import TABLES
from lake.settings import LakeSettings
from tests.lake.ingest_kit import NOW, ids, serve
from tests.lake.test_maintenance import AT_ONCE, fill, maintain, parquet
from tests.lake.test_maintenance import ids as run_ids

LATER = datetime.now(UTC) + timedelta(days=60)
STEPS = (
    (TableOptimizer, "compact"),
    (maintenance, "make_durable"),
    (DeltaTable, "vacuum"),
    (DeltaTable, "create_checkpoint"),
    (maintenance, "remove"),
)


class Death(BaseException):
    """Not an Exception: nothing may catch it."""


def dying(monkeypatch: pytest.MonkeyPatch, point: int) -> list[str]:
    """Raises `Death` at the `point`-th of: before and after each step. What was passed is listed."""
    passed: list[str] = []

    def wrap(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            if len(passed) == point:
                raise Death
            passed.append(f"before {name}")
            result = real(*args, **options)
            if len(passed) == point:
                raise Death
            passed.append(f"after {name}")
            return result

        monkeypatch.setattr(owner, name, call)

    for owner, name in STEPS:
        wrap(owner, name)
    return passed


def maintained(lake: Path, retention: RetentionSettings = AT_ONCE) -> maintenance.TableMaintenance:
    return maintain(lake, retention, named={3: ["aa"]}, now=LATER)


def test_death_at_any_step_leaves_a_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point, died = 0, True
    while died:
        lake = tmp_path / str(point)
        fill(lake, 12)
        served = run_ids(lake)
        with monkeypatch.context() as patch:
            passed = dying(patch, point)
            try:
                maintained(lake)
                died = False
            except Death:
                pass
        assert run_ids(lake) == served and len(run_ids(lake, 3)) == 3, passed
        maintained(lake)
        done = maintained(lake)
        assert run_ids(lake) == served and len(run_ids(lake, 3)) == 3, passed
        assert done.files_after == 1 and len(parquet(lake)) == 4, passed
        fill(lake, 1)
        assert len(run_ids(lake)) == 13
        point += 1
    assert {name for _, name in STEPS} == {one.split()[1] for one in passed}, "every step was a point"


def test_a_lake_kept_in_order_while_it_is_used(tmp_path: Path) -> None:
    """A gateway that writes, two ingesters, a reader with look-ups, and maintenance of everything in a loop."""
    paths = LakeSettings(data_dir=tmp_path)
    stop, failures = time.monotonic() + 120, []
    served: list[str] = []
    kept: list[int] = []
    removed: list[int] = []
    seen: list[int] = []
    paths.journal_dir.mkdir(parents=True)
    retention = RetentionSettings(compact_files=2)

    def over() -> bool:
        enough = sum(kept) >= 3 and sum(removed) >= 3 and len(served) > 20
        return enough or bool(failures) or time.monotonic() > stop

    def gateway() -> None:
        while not over():
            with JournalWriter(paths.journal_dir, role="gateway", segment_max_bytes=4000) as writer:
                for _ in range(6):
                    served.extend(serve(writer, 2))
                    time.sleep(0.02)

    def ingester() -> None:
        while not over():
            assert ingest(paths, NOW).total.closes

    def reader() -> None:
        while not over():
            found = ids(paths)
            assert len(found) == len(set(found)) and len(found) >= (seen[-1] if seen else 0)
            seen.append(len(found))
            if served:
                find_request(paths, served[-1])  # may be in neither yet; must not fail

    def keeper() -> None:
        while not over():
            for name in TABLES:
                done = maintain_table(paths.lake_dir, name, retention, {}, datetime.now(UTC))
                kept.append(done.merged_files if done else 0)
            gone = remove_ingested(paths.journal_dir, paths.lake_dir, tmp_path / "quarantine", 30, LATER)
            removed.append(gone.segments)

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in (gateway, ingester, ingester, reader, keeper)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert failures == []
    assert ingest(paths, NOW, whole=True).total.closes and ids(paths) == sorted(served) and len(served) > 20
    assert sum(kept) > 0 and sum(removed) > 0
