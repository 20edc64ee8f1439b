"""Ingest under damage, rivals, death at each step and lost answers: the tables and the ledger stay right."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake import ingest as ingest_module
from lake.errors import CommitConflictError, CommitUnknownError, IngestError
from lake.journal.frames import Damage, scan
from lake.journal.reader import read_segment
from lake.journal.writer import JournalWriter
from lake.ledger import Ledger
from lake.schemas.records import (
    FrameKind,
)
from lake.settings import LakeSettings
from lake.tables import append, open_table
from tests.lake.ingest_kit import NOW, ROOT, Story, ids, ingest, put, request, response, review, rows, serve


@pytest.fixture
def paths(tmp_path: Path) -> LakeSettings:
    return LakeSettings(data_dir=tmp_path)


def test_damage_is_quarantined_once_with_its_bytes(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        served = serve(writer, 4)
    path = writer.directory / "00000001.mjl"
    frames = list(read_segment(path))
    hit, orphaned = frames[3], frames[4]  # the second request, and its response
    data = bytearray(path.read_bytes())
    data[hit.offset + 30] ^= 4
    path.write_bytes(data + b"\xffMJ\xfetorn")
    report = ingest(paths, NOW)
    assert report.quarantine_reasons == {"bad_crc": 1, "orphan_response": 1, "torn_tail": 1}
    assert ids(paths) == sorted([served[0], *served[2:]])
    assert report.total.to_dict() == {
        "journalled": 9,
        "ingested": 6,
        "quarantined": 3,
        "dropped": {},
        "pending": 0,
        "duplicated_rows": 0,
        "closes": True,
    }
    kept = sorted((paths.data_dir / "quarantine" / writer.directory.name).glob("*.bin"))
    whole = path.read_bytes()
    assert [file.read_bytes() for file in kept] == [
        whole[hit.offset : hit.end],
        whole[orphaned.offset : orphaned.end],
        whole[-8:],
    ]
    before = [file.stat().st_mtime_ns for file in kept]
    again = ingest(paths, NOW)
    assert again.run.quarantined == 0 and again.total.quarantined == 3
    assert [file.stat().st_mtime_ns for file in kept] == before


def test_a_living_workers_half_written_frame_is_left_alone(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        served = serve(writer, 2)
        path = writer.directory / "00000001.mjl"
        whole = path.read_bytes()
        path.write_bytes(whole[:-5])  # as a reader may see it while the last write is under way
        report = ingest(paths, NOW)
        assert (report.total.quarantined, report.total.pending) == (0, 1)
        assert len(rows(paths)) == 1
        path.write_bytes(whole)
        ingest(paths, NOW)
        assert ids(paths) == sorted(served)


def test_a_lost_race_is_decided_again(paths: LakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between snapshot and commit a rival ingests the same segment: the run must take nothing twice."""
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        served = serve(writer, 5)
    real, rivals = append, []

    def slow(*args: Any, **kwargs: Any) -> int:
        if not rivals:
            rivals.append(1)
            ingest(paths, NOW)
        return real(*args, **kwargs)

    monkeypatch.setattr(ingest_module, "append", slow)
    report = ingest(paths, NOW)
    assert report.lost_races == 1 and report.rows_added["requests"] == 0
    assert ids(paths) == sorted(served)


@pytest.mark.parametrize("landed", [True, False])
def test_an_unknown_outcome_is_looked_up(paths: LakeSettings, monkeypatch: pytest.MonkeyPatch, landed: bool) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        served = serve(writer, 3)
    real, failed = append, []

    def unsure(*args: Any, **kwargs: Any) -> int:
        if not failed:
            failed.append(1)
            if landed:
                real(*args, **kwargs)
            raise CommitUnknownError("who knows")
        return real(*args, **kwargs)

    monkeypatch.setattr(ingest_module, "append", unsure)
    assert ingest(paths, NOW).total.ingested == 6
    assert ids(paths) == sorted(served)


def test_races_lost_for_ever_end_with_an_error(paths: LakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        serve(writer)

    def lose(*args: Any, **kwargs: Any) -> int:
        raise CommitConflictError("again")

    monkeypatch.setattr(ingest_module, "append", lose)
    monkeypatch.setattr(ingest_module, "_BACKOFF_S", 0.0)
    with pytest.raises(IngestError, match="tries"):
        ingest(paths, NOW)


@pytest.mark.parametrize("point", range(1, 7))
def test_death_at_any_step_loses_and_doubles_nothing(
    paths: LakeSettings, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        served = serve(writer, 5)
        put(writer, FrameKind.REVIEW, review(1))
        put(writer, FrameKind.REVIEW, review(2, tools=None))
    calls = []
    real_append, real_keep = append, ingest_module.quarantine.keep

    class Death(BaseException):
        pass

    def dying(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == point:
                raise Death
            result = real(*args, **kwargs)
            calls.append(1)
            if len(calls) == point:
                raise Death
            return result

        return call

    with monkeypatch.context() as patch:
        patch.setattr(ingest_module, "append", dying(real_append))
        patch.setattr(ingest_module.quarantine, "keep", dying(real_keep))
        patch.setattr(ingest_module, "MAX_ROWS", 3)
        with pytest.raises(Death):
            ingest(paths, NOW)
    report = ingest(paths, NOW)
    assert ids(paths) == sorted(served)
    assert (report.total.ingested, report.total.quarantined, report.total.journalled) == (11, 1, 12)


INGESTER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from lake import ingest
from lake.settings import LakeSettings
ingest.MAX_ROWS = 7
print("ready", flush=True)
sys.stdin.readline()
report = ingest.ingest(LakeSettings(data_dir=Path(sys.argv[1])), datetime.now(UTC))
print(report.rows_added["requests"], report.total.closes)
"""


def test_four_processes_at_once_make_one_table(paths: LakeSettings) -> None:
    served: list[str] = []
    for _ in range(2):
        with JournalWriter(paths.journal_dir, role="gateway", segment_max_bytes=10_000) as writer:
            served += serve(writer, 25)
    shutil.copytree(writer.directory, paths.journal_dir / "copy")
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", INGESTER, str(paths.data_dir)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for rival in rivals:
        assert rival.stdout and rival.stdout.readline() == "ready\n"
    for rival in rivals:
        assert rival.stdin
        rival.stdin.write("\n")
        rival.stdin.flush()
    answers = [rival.communicate(timeout=60) for rival in rivals]
    assert [rival.returncode for rival in rivals] == [0] * 4, answers
    added = [int(out.split()[0]) for out, _ in answers]
    assert sum(added) == 50
    assert ids(paths) == sorted(served)
    assert ingest(paths, NOW).total.dropped == {"duplicate_id": 50}


def test_a_row_that_stands_twice_or_is_gone_opens_the_ledger(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        serve(writer, 3)
    ingest(paths, NOW)
    table = open_table(paths.lake_dir, "requests")
    twice = table.to_pyarrow_table().slice(0, 1)
    table.delete("seq = 3")  # one gone, another doubled: the sums agree, the books must not
    append(paths.lake_dir, "requests", twice)
    with pytest.raises(IngestError, match="does not close"):
        ingest(paths, NOW)
    assert not Ledger(journalled=2, ingested=1).closes


def test_a_segment_shorter_than_what_was_ingested_is_named_not_fatal(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        serve(writer, 3)
    ingest(paths, NOW)
    path = writer.directory / "00000001.mjl"
    frames = [item for item in scan(path.read_bytes()) if not isinstance(item, Damage)]
    path.write_bytes(path.read_bytes()[: frames[3].offset])
    assert ingest(paths, NOW).shrunk_workers == [writer.directory.name]
    assert len(rows(paths)) == 3


def test_segments_removed_after_ingest_leave_later_responses_alone(paths: LakeSettings) -> None:
    writer = JournalWriter(paths.journal_dir, role="gateway", segment_max_bytes=3000)
    served = [put(writer, FrameKind.REQUEST, request(f"q{n}")) for n in range(6)]
    for n, at in enumerate(served):
        put(writer, FrameKind.RESPONSE, response(f"q{n}", at.seq))
    ingest(paths, NOW)
    assert served[0].segment == "00000001.mjl" != served[-1].segment
    (writer.directory / "00000001.mjl").unlink()
    report = ingest(paths, NOW)
    assert report.total.quarantined == 0 and len(rows(paths)) == 6
    writer.close()


STEPS = st.lists(st.sampled_from(["request", "answer", "review", "ingest", "restart", "copy"]), max_size=25)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_any_order_of_events_gives_each_id_once(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    story = Story(tmp_path_factory.mktemp("model"), segment_max_bytes=5000)
    paths = story.paths
    for step in [*steps, "restart", "ingest"]:
        story.happen(step)
    story.writer.close()
    assert {row["request_id"]: row["outcome"] for row in rows(paths)} == story.expected
    assert len(rows(paths)) == len(story.expected) and len(rows(paths, "reviews")) == story.reviews
    assert ingest(paths, NOW).total.pending == 0
