"""Journal retention: only what the lake has goes, oldest first, and the ledger closes afterwards, whatever happened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake import journal_retention
from lake.ingest import ingest
from lake.journal.reader import list_segments, list_workers
from lake.journal.removal import reading, removing
from lake.journal.writer import JournalWriter
from lake.journal_retention import JournalRemoval, remove_ingested
from lake.schemas.records import FrameKind
from lake.settings import LakeSettings
from tests.lake.ingest_kit import NOW, ROOT, Story, feedback, ids, put, request, response, review, rows, serve

LATER = datetime.now(UTC) + timedelta(days=40)  # the files of a test are young


@pytest.fixture
def paths(tmp_path: Path) -> LakeSettings:
    return LakeSettings(data_dir=tmp_path)


def remove(paths: LakeSettings, now: datetime = LATER, **options: Any) -> JournalRemoval:
    return remove_ingested(paths.journal_dir, paths.lake_dir, paths.data_dir / "quarantine", 30, now, **options)


def segments(paths: LakeSettings) -> list[str]:
    return [segment.name for worker in list_workers(paths.journal_dir) for segment in list_segments(worker)]


def served_by_an_ended_worker(paths: LakeSettings, count: int = 12) -> list[str]:
    with JournalWriter(paths.journal_dir, role="gateway", segment_max_bytes=3000) as writer:
        return serve(writer, count)


def test_an_ended_worker_that_is_in_the_lake_goes_as_a_whole(paths: LakeSettings) -> None:
    served = served_by_an_ended_worker(paths)
    ingest(paths, NOW)
    names = segments(paths)
    size = sum(path.stat().st_size for path in paths.journal_dir.glob("*/*.mjl"))
    planned = remove(paths, dry_run=True)
    assert (planned.segments, planned.bytes, planned.names, planned.workers) == (len(names), size, names, 1)
    assert segments(paths) == names, "a dry run touches nothing"
    assert remove(paths).to_dict() == planned.to_dict()
    assert len(names) > 3 and segments(paths) == [] and list_workers(paths.journal_dir) == []
    report = ingest(paths, NOW)
    assert report.total.closes and report.run.journalled == 0 and ids(paths) == sorted(served)


def test_what_is_young_or_not_in_the_lake_stays(paths: LakeSettings) -> None:
    served_by_an_ended_worker(paths)
    names = segments(paths)
    assert remove(paths).kept == {"not_ingested": len(names)}
    ingest(paths, NOW)
    assert remove(paths, datetime.now(UTC)).kept == {"young": len(names)}
    os.utime(paths.journal_dir / names[0], (0, 0))
    os.utime(paths.journal_dir / names[2], (0, 0))
    report = remove(paths, datetime.now(UTC))
    assert report.names == names[:1], "the second is young, and nothing goes before it"
    assert report.kept == {"young": len(names) - 1} and segments(paths) == names[1:]


def test_a_request_that_waits_for_its_answer_holds_everything_after_it(paths: LakeSettings) -> None:
    writer = JournalWriter(paths.journal_dir, role="gateway", segment_max_bytes=3000)
    serve(writer, 5)
    at = put(writer, FrameKind.REQUEST, request("slow"))
    serve(writer, 5)
    put(writer, FrameKind.REVIEW, review(1))
    ingest(paths, NOW)
    report = remove(paths)
    assert report.segments > 0 and report.kept["not_ingested"] > 0
    assert segments(paths)[0] == f"{writer.directory.name}/{at.segment}"
    put(writer, FrameKind.RESPONSE, response("slow", at.seq))
    assert ingest(paths, NOW).total.closes
    assert remove(paths).kept == {"being_written": 1}
    assert segments(paths) == [f"{writer.directory.name}/{max(path.name for path in writer.directory.glob('*.mjl'))}"]
    serve(writer, 3)  # the gateway goes on writing
    writer.close()
    report = ingest(paths, NOW)
    assert report.total.closes and len(rows(paths)) == 14
    assert next(row for row in rows(paths) if row["request_id"] == "slow")["outcome"] == "answered"


def test_a_mark_of_each_table_is_needed(paths: LakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are in, feedback is not: an ingest killed between two tables."""
    from lake import ingest as ingest_module

    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        (rid,) = serve(writer)
        put(writer, FrameKind.FEEDBACK, feedback(1, rid))
    real = ingest_module.append

    def killed(lake_dir: Any, name: str, *args: Any, **options: Any) -> int:
        if name == "feedback":
            raise KeyboardInterrupt
        return real(lake_dir, name, *args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingest_module, "append", killed)
        ingest(paths, NOW)
    assert remove(paths).kept == {"not_ingested": 1}
    ingest(paths, NOW)
    assert remove(paths).segments == 1 and len(rows(paths, "feedback")) == 1


@pytest.mark.parametrize("hit", ["request", "response", "payload"])
def test_the_ledger_closes_when_what_is_in_quarantine_loses_its_other_half(paths: LakeSettings, hit: str) -> None:
    writer = JournalWriter(paths.journal_dir, role="gateway", segment_max_bytes=3000)
    changes: dict[str, Any] = {"top_k": "many"} if hit == "payload" else {}
    asked = [put(writer, FrameKind.REQUEST, request(f"q{n}", **(changes if n == 1 else {}))) for n in range(6)]
    if hit == "request":
        path = writer.directory / asked[1].segment
        data = bytearray(path.read_bytes())
        data[asked[1].offset + 40] ^= 1
        path.write_bytes(data)
    for n, at in enumerate(asked):
        bad = {"outcome": "odd"} if hit == "response" and n == 1 else {}
        put(writer, FrameKind.RESPONSE, response(f"q{n}", at.seq, **bad))
    before = ingest(paths, NOW)
    assert before.total.quarantined == {"request": 2, "response": 1, "payload": 2}[hit]
    for path in writer.directory.glob("*.mjl"):
        if path.name <= asked[1].segment:
            os.utime(path, (0, 0))
    assert remove(paths, datetime.now(UTC)).segments > 0 and segments(paths)[0].split("/")[1] > asked[1].segment
    assert ingest(paths, NOW).total.closes
    writer.close()
    assert ingest(paths, NOW).total.closes and remove(paths).workers == 1
    assert ingest(paths, NOW).total.closes


def test_damage_that_nobody_kept_stays(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        serve(writer, 2)
    with (paths.journal_dir / segments(paths)[0]).open("ab") as handle:
        handle.write(b"\xffMJ\xfetorn")
    ingest(paths, NOW)
    shutil.rmtree(paths.data_dir / "quarantine")
    assert remove(paths).kept == {"not_in_quarantine": 1}
    ingest(paths, NOW)
    assert remove(paths).segments == 1


def test_a_segment_shorter_than_its_mark_stays_for_a_person_to_see(paths: LakeSettings) -> None:
    served_by_an_ended_worker(paths, 3)
    ingest(paths, NOW)
    first = paths.journal_dir / segments(paths)[0]
    os.truncate(first, first.stat().st_size - 1)
    ingest(paths, NOW)
    assert remove(paths).kept["shrunk"] + remove(paths).kept["not_in_quarantine"] >= 1
    assert first.exists()


def test_nothing_is_removed_under_an_ingest(paths: LakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    served_by_an_ended_worker(paths, 2)
    ingest(paths, NOW)
    monkeypatch.setattr(journal_retention, "_WAIT_S", 0.1)
    with reading(paths.journal_dir):
        assert remove(paths).kept == {"busy": 1}
    assert remove(paths).segments == 1


def test_an_ingest_waits_for_a_removal(paths: LakeSettings) -> None:
    served_by_an_ended_worker(paths, 2)
    done = threading.Event()

    def run() -> None:
        ingest(paths, NOW)
        done.set()

    with removing(paths.journal_dir, 0) as alone:
        assert alone
        thread = threading.Thread(target=run)
        thread.start()
        assert not done.wait(0.3)
    thread.join(timeout=30)
    assert done.is_set()


def test_readers_that_never_pause_do_not_keep_a_removal_out(paths: LakeSettings) -> None:
    paths.journal_dir.mkdir(parents=True)
    stop, turns = threading.Event(), [0, 0]

    def read(which: int) -> None:
        while not stop.is_set():
            with reading(paths.journal_dir):
                turns[which] += 1
                time.sleep(0.05)

    threads = [threading.Thread(target=read, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            with removing(paths.journal_dir, 60) as alone:
                assert alone
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=30)
    assert min(turns) > 0


REMOVER = """
import sys, os
from pathlib import Path
from tests.lake.test_journal_retention import LakeSettings, remove
from lake import journal_retention
real, left = journal_retention.fsync_dir, int(sys.argv[2])
def counted(path):
    global left
    left -= 1
    if left < 0: os._exit(9)
    real(path)
journal_retention.fsync_dir = counted
remove(LakeSettings(data_dir=Path(sys.argv[1])))
"""


@pytest.mark.parametrize("point", range(4))  # three segments and the folder
def test_killed_at_any_removal_the_books_still_close(paths: LakeSettings, point: int) -> None:
    served = served_by_an_ended_worker(paths, 6)
    ingest(paths, NOW)
    names = segments(paths)
    command = [sys.executable, "-c", REMOVER, str(paths.data_dir), str(point)]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}, check=False)
    left = segments(paths)
    assert left == names[len(names) - len(left) :]
    assert killed.returncode == 9 and len(left) == max(0, 2 - point)
    assert ingest(paths, NOW).total.closes
    remove(paths)
    assert segments(paths) == [] and ingest(paths, NOW).total.closes and ids(paths) == sorted(served)


def test_removal_beside_a_writing_gateway_and_ingesters(paths: LakeSettings) -> None:
    """Everything at once for a second: nothing is lost, nothing doubled, every ledger closes."""
    stop = time.monotonic() + 1.5
    served: list[str] = []
    failures: list[BaseException] = []
    removed: list[int] = []
    (paths.journal_dir).mkdir(parents=True)

    def gateway() -> None:
        while time.monotonic() < stop:
            with JournalWriter(paths.journal_dir, role="gateway", segment_max_bytes=4000) as writer:
                for _ in range(10):
                    served.extend(serve(writer, 2))

    def ingester() -> None:
        while time.monotonic() < stop:
            assert ingest(paths, NOW).total.closes

    def remover() -> None:
        while time.monotonic() < stop:
            removed.append(remove(paths).segments)

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (gateway, ingester, ingester, remover)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert failures == []
    assert ingest(paths, NOW).total.closes and ids(paths) == sorted(served) and len(served) > 10
    remove(paths)
    assert sum(removed) > 0 and segments(paths) == []


STEPS = st.lists(
    st.sampled_from(["request", "answer", "review", "odd", "damage", "ingest", "remove", "restart", "copy"]),
    max_size=40,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_any_order_of_events_closes_the_ledger(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    story = Story(tmp_path_factory.mktemp("model"), segment_max_bytes=2500)
    paths = story.paths
    for step in [*steps, "restart", "ingest", "remove", "ingest"]:
        match step:
            case "odd":
                put(story.writer, FrameKind.REVIEW, review(999, tools=None))
                put(story.writer, FrameKind.RESPONSE, response("nobody", 10**6))
            case "damage" if not story.waiting:
                story.restart(tail=b"\xffMJ\xfetorn")
            case "remove":
                remove(paths)
            case _:
                story.happen(step)
    story.writer.close()
    assert {row["request_id"]: row["outcome"] for row in rows(paths)} == story.expected
    assert len(rows(paths, "reviews")) == story.reviews
    remove(paths)
    assert segments(paths) == [] and ingest(paths, NOW).total.closes
