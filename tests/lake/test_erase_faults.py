"""Erasure killed after each of its steps, beside writers, ingests and builds: done again it ends the same."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lake import erase_journal, erase_remove, erase_tables
from lake.erase import begin, carry_on, run_due
from lake.erase_work import open_works, states
from lake.errors import ErasureError, IngestError
from lake.ingest import ingest
from lake.journal.writer import JournalWriter
from lake.settings import LakeSettings
from lake.tables import append, open_table
from tests.lake.erase_kit import NOW, QUESTIONS, World, ask, left_of, make_world, requests_of, say


class Death(BaseException):
    pass


def quiet(_: str) -> None:
    pass


def copied(world: World, folder: Path) -> World:
    shutil.copytree(world.paths.data_dir.parent, folder, symlinks=True)
    paths = LakeSettings(data_dir=folder / "data", models_dir=folder / "models")
    return replace(world, paths=paths)


def steps_of(world: World) -> list[str]:
    seen: list[str] = []
    work = begin(world.paths, "request", world.ids[0], NOW, log=quiet)
    assert work is not None
    carry_on(world.paths, work, NOW, at_once=True, log=quiet, point=seen.append)
    return seen


def check_done(world: World) -> None:
    assert left_of(world, world.ids[0], QUESTIONS[0]) == []
    assert open_works(world.paths.erasures_dir) == []
    assert requests_of(world) == sorted(world.ids[1:])
    for whole in (False, True):
        report = ingest(world.paths, NOW, whole=whole)
        assert report.total.closes and report.total.dropped == {"erased": 4}


def test_death_after_any_step_is_made_good(tmp_path: Path) -> None:
    """One world a point; the run that dies is followed by an ingest, whose books close, and by the daily run."""
    model = make_world(tmp_path / "model")
    points = steps_of(copied(model, tmp_path / "whole"))
    assert len(points) >= 20 and points[0] == "recorded" and points[-1] == "proven"
    for number, name in enumerate(points):
        world = copied(model, tmp_path / f"{number}")
        work = begin(world.paths, "request", world.ids[0], NOW, log=quiet)
        assert work is not None
        seen: list[str] = []

        def die(point: str, number: int = number, seen: list[str] = seen) -> None:
            seen.append(point)
            if len(seen) == number + 1:
                raise Death

        with pytest.raises(Death):
            carry_on(world.paths, work, NOW, at_once=True, log=quiet, point=die)
        assert seen[-1] == name
        assert world.ids[0] not in requests_of(world) or name == "recorded"
        assert ingest(world.paths, NOW).total.closes, name
        run_due(world.paths, NOW, at_once=True, log=quiet)
        check_done(world)
        recorded = [row["state"] for row in states(world.paths.lake_dir, "erasure_id", work.erasure_id)]
        assert recorded == ["hidden", "removed", "proven"], name


def test_death_between_two_segments_of_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request is blanked, its response, in the next segment, is not yet."""
    world = make_world(tmp_path)
    real, calls = erase_journal._replaced, []  # pyright: ignore[reportPrivateUsage]

    def dying(*args: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise Death
        real(*args)

    work = begin(world.paths, "request", world.ids[0], NOW, log=quiet)
    assert work is not None
    with monkeypatch.context() as patch:
        patch.setattr(erase_journal, "_replaced", dying)
        with pytest.raises(Death):
            carry_on(world.paths, work, NOW, at_once=True, log=quiet)
    for whole in (False, True):
        assert ingest(world.paths, NOW, whole=whole).total.closes
    run_due(world.paths, NOW, at_once=True, log=quiet)
    check_done(world)


def test_an_ingest_that_decided_before_can_not_commit_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between snapshot and commit of an ingest an erasure is recorded: the ingest must decide again."""
    from lake import ingest as ingest_module

    world = make_world(tmp_path)
    with JournalWriter(world.paths.journal_dir, role="gateway") as writer:
        rid = ask(writer, "이제 막 들어와서 레이크로 가는 길에 있던 질문입니다만")
    begun: list[int] = []

    def slow(*args: Any, **options: Any) -> int:
        if not begun:
            begun.append(1)
            work = begin(world.paths, "request", rid, NOW, log=quiet)
            assert work is not None
            carry_on(world.paths, work, NOW, log=quiet)
        return append(*args, **options)

    monkeypatch.setattr(ingest_module, "append", slow)
    report = ingest(world.paths, NOW)
    assert report.lost_races >= 1 and report.run.dropped == {"erased": 2} and report.total.closes
    assert requests_of(world) == sorted(world.ids)


def test_a_lost_race_is_run_again_and_one_lost_for_ever_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path)
    real, rivals = erase_tables.replace_days, []

    def rival(*args: Any) -> None:
        if not rivals:
            rivals.append(1)
            table = open_table(world.paths.lake_dir, "requests")
            append(world.paths.lake_dir, "requests", [], table=table, txns={"rival": 1})
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(erase_tables, "replace_days", rival)
        assert erase_tables.delete_rows(world.paths.lake_dir, "requests", frozenset({world.ids[0]}), "e") == 1
    assert rivals and requests_of(world) == sorted(world.ids[1:])

    def lose(*_: Any) -> None:
        raise erase_tables.CommitConflictError("again")

    monkeypatch.setattr(erase_tables, "replace_days", lose)
    monkeypatch.setattr(erase_tables, "_BACKOFF_S", 0.0)
    with pytest.raises(ErasureError, match="less is going on"):
        erase_tables.delete_rows(world.paths.lake_dir, "requests", frozenset({world.ids[1]}), "e")


def test_beside_a_writer_and_ingesters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway answers, two ingesters run, and a key is erased: nothing of others is lost, nothing comes back."""
    monkeypatch.setattr(erase_remove, "_WAIT_S", 3.0)
    world = make_world(tmp_path)
    stop = threading.Event()
    served: list[str] = []
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            number = 0
            with JournalWriter(world.paths.journal_dir, role="gateway", segment_max_bytes=6000) as writer:
                while not stop.is_set() and number < 200:
                    number += 1
                    served.append(
                        ask(writer, f"바쁜 시간에 들어온 {number * 7919} 번째 손님의 질문입니다", key_id="key-z")
                    )
                    say(writer, served[-1])
                    stop.wait(0.02)
        except BaseException as error:
            failures.append(error)

    def take() -> None:
        while not stop.is_set():
            try:
                ingest(world.paths, NOW)
                stop.wait(0.3)  # so that an erasure has the journal for itself now and then
            except IngestError as error:
                failures.append(error)

    threads = [threading.Thread(target=target) for target in (serve, take, take)]
    for thread in threads:
        thread.start()
    try:
        for rid in world.ids[:3]:
            work = begin(world.paths, "request", rid, NOW, log=quiet)
            assert work is not None
            carry_on(world.paths, work, NOW, at_once=True, log=quiet)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == [], failures
    run_due(world.paths, NOW, at_once=True, log=quiet)  # what was being written and read at the time
    for whole in (False, True):
        assert ingest(world.paths, NOW, whole=whole).total.closes
    assert requests_of(world) == sorted([*world.ids[3:], *served])
    assert left_of(world, *world.ids[:3], *QUESTIONS[:3]) == [] and open_works(world.paths.erasures_dir) == []
