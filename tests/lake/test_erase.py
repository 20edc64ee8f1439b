"""Erasure: everything that a request reached is named, hidden at once, removed, and proven gone; the books close."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lake.dataset import read_dataset, verify
from lake.erase import begin, carry_on, preview, run_due
from lake.erase_work import open_works, states
from lake.erased_ids import id_hash
from lake.errors import ErasureError, UnknownSubjectError, WithdrawnError
from lake.ingest import ingest
from lake.journal.frames import Damage
from lake.journal.reader import list_segments, list_workers, read_segment
from lake.journal.writer import JournalWriter
from lake.lookup import find_request
from lake.registry import Registry
from lake.schemas.records import FrameKind
from lake.tables import open_table, scan
from tests.lake.erase_kit import (
    GOOD,
    NOW,
    QUESTIONS,
    World,
    ask,
    build,
    halves,
    left_of,
    make_world,
    opt_out,
    promote,
    register,
    requests_of,
    say,
)

LATER = NOW + timedelta(days=30)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


def erase(world: World, kind: Any = "request", value: str = "", **options: Any) -> dict[str, Any]:
    work = begin(world.paths, kind, value or world.ids[0], NOW, log=quiet)
    assert work is not None
    return carry_on(world.paths, work, NOW, log=quiet, **options)


def quiet(_: str) -> None:
    pass


def files_of(world: World) -> dict[str, bytes]:
    root = world.paths.data_dir.parent
    return {str(one.relative_to(root)): one.read_bytes() for one in root.rglob("*") if one.is_file()}


def test_a_preview_names_every_place_and_touches_nothing(world: World) -> None:
    before = files_of(world)
    report = preview(world.paths, "request", world.ids[0], log=quiet)
    assert files_of(world) == before
    reach = report["reach"]
    assert {one["table"]: one["rows"] for one in reach["tables"]} == {
        "requests": 1, "feedback": 1, "reviews": 1, "teacher_labels": 1, "rejects": 1,
    }  # fmt: skip
    assert all(one["dates"] == ["2026-03-01"] and one["files"] for one in reach["tables"])
    assert len(reach["journal"]) == 4 and all(one["bytes"] > 0 for one in reach["journal"])
    assert reach["datasets"] == {world.dataset: 1}
    assert [one["adapter"] for one in reach["adapters"]] == [world.adapter] and reach["ggufs"] == [world.adapter]
    named = {Path(one["file"]).name for one in reach["files"]}
    assert named >= {"build.json", "index.html", "gateway.log", "run-1.jsonl", "leases.sqlite", "answers.sqlite"}
    assert "reference.json" in named and "merged.gguf" in named
    assert "python -m flows.build" in report["rebuild"] and "python -m flows.export" in report["rebuild"]
    assert QUESTIONS[0] not in str(report) and world.ids[0] not in str(report)


def test_hidden_at_once_and_the_books_close(world: World) -> None:
    report = erase(world)
    assert report["state"] == "hidden" and "removal" not in report
    assert requests_of(world) == sorted(world.ids[1:])
    for name in ("teacher_labels", "rejects", "reviews"):
        assert scan(world.paths.lake_dir, name).collect().is_empty(), name
    assert scan(world.paths.lake_dir, "feedback").collect().height == 5
    assert find_request(world.paths, world.ids[0]) is None
    with pytest.raises(WithdrawnError):
        read_dataset(world.paths.datasets_dir / world.dataset)
    assert Registry(world.paths.models_dir).get(world.adapter).state == "quarantined"
    again = ingest(world.paths, NOW)
    assert again.total.closes and again.total.dropped == {"erased": 4} and again.rows_added["requests"] == 0
    assert ingest(world.paths, NOW, whole=True).total.closes
    (row,) = states(world.paths.lake_dir, "erasure_id", report["erasure_id"])
    assert row["state"] == "hidden" and id_hash(world.ids[0]) in row["ids_sha256"]
    assert world.ids[0] not in str(row) and QUESTIONS[0] not in str(row)


def test_removed_and_proven_at_once(world: World) -> None:
    assert left_of(world, world.ids[0], QUESTIONS[0])
    report = erase(world, at_once=True)
    assert report["state"] == "proven" and report["proof"]["found"] == [] and report["proof"]["files"] > 20
    assert left_of(world, world.ids[0], QUESTIONS[0]) == []
    assert open_works(world.paths.erasures_dir) == []
    recorded = states(world.paths.lake_dir, "erasure_id", report["erasure_id"])
    assert [row["state"] for row in recorded] == ["hidden", "removed", "proven"]
    assert not (world.paths.datasets_dir / world.dataset).exists()
    assert not (world.paths.gguf_dir / world.adapter).exists()
    assert left_of(world, world.ids[1], QUESTIONS[1])  # the others are all there
    assert "other line" in (world.paths.run_dir / "gateway.log").read_text()
    for whole in (False, True):
        assert ingest(world.paths, NOW, whole=whole).total.dropped == {"erased": 4}
    assert build(world) != world.dataset
    assert left_of(world, world.ids[0], QUESTIONS[0]) == []


def test_segments_keep_their_frames_numbers_and_checksums(world: World) -> None:
    def frames() -> dict[str, list[tuple[int, int, int]]]:
        found: dict[str, list[tuple[int, int, int]]] = {}
        for worker in list_workers(world.paths.journal_dir):
            for segment in list_segments(worker):
                read = list(read_segment(segment.path))
                assert not any(isinstance(one, Damage) for one in read)
                found[segment.name] = [(one.offset, one.size, one.seq) for one in read if not isinstance(one, Damage)]
        return found

    before = frames()
    erase(world, at_once=True)
    assert frames() == before
    kinds = [
        one.kind
        for worker in list_workers(world.paths.journal_dir)
        for segment in list_segments(worker)
        for one in read_segment(segment.path)
        if not isinstance(one, Damage)
    ]
    assert kinds.count(FrameKind.ERASED) == 4


def test_nothing_goes_from_the_disk_before_its_time_and_all_of_it_then(world: World) -> None:
    erase(world)
    (work,) = open_works(world.paths.erasures_dir)
    assert timedelta(days=5) < work.due - NOW < timedelta(days=7)
    assert run_due(world.paths, work.due - timedelta(minutes=1), log=quiet)[0]["state"] == "hidden"
    assert left_of(world, QUESTIONS[0])
    assert run_due(world.paths, work.due, log=quiet)[0]["state"] == "proven"
    assert left_of(world, world.ids[0], QUESTIONS[0]) == [] and run_due(world.paths, LATER, log=quiet) == []


def test_the_window_is_a_setting(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    world.paths = world.paths.model_copy(update={"erase_window_days": 1.0})
    erase(world)
    (work,) = open_works(world.paths.erasures_dir)
    assert work.due == NOW + timedelta(hours=12) and work.window_days == 1.0


def test_a_key_with_all_its_requests_and_what_it_said(world: World) -> None:
    with JournalWriter(world.paths.journal_dir, role="gateway") as writer:
        late = ask(writer, "아직 레이크에 들어가지 않은 열쇠 에이의 조용한 질문입니다", key_id="key-a")
        said = say(writer, world.ids[3], "열쇠 에이가 남의 답에 남긴 길고 긴 한마디입니다", key_id="key-a")
    report = erase(world, "key", "key-a", at_once=True)
    assert report["state"] == "proven" and report["reach"]["requests"] == 3
    assert requests_of(world) == sorted(world.ids[2:])
    assert left_of(world, late, said, *world.ids[:2]) == []
    assert left_of(world, world.ids[3]) and ingest(world.paths, NOW, whole=True).total.closes


def test_a_session(world: World) -> None:
    private = JournalWriter(world.paths.journal_dir, role="gateway")
    hidden = opt_out(
        world.paths,
        private,
        "아무도 몰라야 하는 세션의 비밀 질문 하나입니다",
        session_id="session-of-a-person-00000001",
    )
    private.close()
    assert erase(world, "session", "session-of-a-person-00000001", at_once=True)["state"] == "proven"
    assert requests_of(world) == sorted([world.ids[0], world.ids[1], *world.ids[4:]])
    assert left_of(world, hidden, "아무도 몰라야 하는 세션의 비밀 질문 하나입니다", QUESTIONS[2], QUESTIONS[3]) == []


def test_only_in_the_journal_and_opted_out(world: World) -> None:
    secret = "지원하지 않아야 하는 아주 은밀한 물음이 여기에 있습니다"
    with JournalWriter(world.paths.journal_dir, role="gateway") as writer:
        rid = opt_out(world.paths, writer, secret)
        report = erase(world, value=rid, at_once=True)  # beside the living writer
        assert report["state"] == "proven" and report["removal"]["private_frames"] == 2
        other = ask(writer, "그 뒤에 온 다른 사람의 전혀 다른 질문이 남아 있어야 합니다")
    assert left_of(world, rid, secret) == []
    assert ingest(world.paths, NOW).rows_added["requests"] == 1 and other in requests_of(world)
    assert ingest(world.paths, NOW, whole=True).total.closes


def test_only_in_the_lake(world: World) -> None:
    for worker in list_workers(world.paths.journal_dir):
        for segment in list_segments(worker):
            segment.path.unlink()
    assert erase(world, at_once=True)["state"] == "proven"
    assert left_of(world, world.ids[0], QUESTIONS[0]) == [] and ingest(world.paths, NOW).total.closes


def test_a_pending_request_waits_for_its_end(world: World) -> None:
    question = "대답을 기다리는 중에 지워 달라고 한 사람의 긴 질문입니다"
    with JournalWriter(world.paths.journal_dir, role="gateway") as writer:
        rid = "01JD8Y7K3M5QX0R2T4V6W8Z9AB"
        first, second = halves(rid, question)
        at = writer.append_blocking(FrameKind.REQUEST, first.payload())
        report = erase(world, value=rid, at_once=True)
        assert report["state"] == "hidden" and "wait for the end" in report["removal"]["waiting"][0]
        writer.append_blocking(FrameKind.RESPONSE, second.payload() | {"request_seq": at.seq})
        assert find_request(world.paths, rid) is None
        (done,) = run_due(world.paths, NOW, at_once=True, log=quiet)
    assert done["state"] == "proven" and left_of(world, rid, question) == []
    assert ingest(world.paths, NOW, whole=True).total.closes and rid not in requests_of(world)


def test_unknown_and_twice(world: World) -> None:
    with pytest.raises(UnknownSubjectError, match="private journal"):
        begin(world.paths, "request", "01JD8Y7K3M5QX0R2T4V6W8Z9AB", NOW, log=quiet)
    assert open_works(world.paths.erasures_dir) == []
    erase(world)
    erase(world)  # is taken up again
    assert len(open_works(world.paths.erasures_dir)) == 1
    erase(world, at_once=True)
    assert begin(world.paths, "request", world.ids[0], NOW, log=quiet) is None
    assert ingest(world.paths, NOW).total.dropped == {"erased": 4}


def test_a_copy_of_the_journal_does_not_bring_it_back(world: World, tmp_path: Path) -> None:
    (worker,) = list_workers(world.paths.journal_dir)
    copy = {segment.path.name: segment.path.read_bytes() for segment in list_segments(worker)}
    erase(world, at_once=True)
    folder = world.paths.journal_dir / "zz-restored"
    folder.mkdir()
    for name, data in copy.items():
        (folder / name).write_bytes(data)
    report = ingest(world.paths, NOW)
    assert report.run.dropped["erased"] == 4 and report.total.closes
    assert requests_of(world) == sorted(world.ids[1:])


def test_quarantined_bytes_go_too(world: World) -> None:
    question = "망가진 기록 안에 남아 있던 어떤 사람의 질문이 여기 있습니다"
    with JournalWriter(world.paths.journal_dir, role="gateway") as writer:
        rid = ask(writer, question)
        bad = halves("01JD8Y7K3M5QX0R2T4V6W8Z9AB", question)[0].payload() | {"request_id": rid, "top_k": "three"}
        writer.append_blocking(FrameKind.REQUEST, bad | {"request_id": "01JD8Y7K3M5QX0R2T4V6W8Z9AC"})
    last = list_segments(writer.directory)[-1].path
    data = last.read_bytes()
    last.write_bytes(data + b"\xffMJ\xfe" + question.encode())  # a torn frame
    assert ingest(world.paths, NOW).total.quarantined == 2
    assert any("quarantine" in path for path in left_of(world, question))
    report = erase(world, value=rid, at_once=True)
    assert report["state"] == "proven" and report["removal"]["quarantine"] == 2
    assert left_of(world, rid, question) == []
    for whole in (False, True):
        assert ingest(world.paths, NOW, whole=whole).total.quarantined == 2


def test_what_others_said_too_is_kept_and_counted(world: World) -> None:
    with JournalWriter(world.paths.journal_dir, role="gateway") as writer:
        other = ask(writer, QUESTIONS[0], key_id="key-c")
    report = erase(world, at_once=True)
    assert report["state"] == "proven" and report["removal"]["shared"] >= 1
    assert other in requests_of(world) and left_of(world, world.ids[0]) == []
    assert left_of(world, QUESTIONS[0])


def test_the_champion_falls_back_on_one_that_was_not_trained_on_it(world: World) -> None:
    clean = register(world, "another-dataset", 2)
    tainted = register(world, world.dataset, 3)
    promote(world, clean)
    promote(world, tainted)
    said: list[str] = []
    work = begin(world.paths, "request", world.ids[0], NOW, log=quiet)
    assert work is not None
    carry_on(world.paths, work, NOW, log=said.append)
    registry = Registry(world.paths.models_dir)
    champion = registry.champion()
    assert champion is not None and champion.adapter_id == clean
    assert {one.adapter_id: one.state for one in registry.list()} == {
        world.adapter: "quarantined", clean: "champion", tainted: "quarantined",
    }  # fmt: skip
    assert any("CHAMPION" in line and clean in line for line in said)


def test_a_dataset_that_only_left_the_request_out_stays(world: World) -> None:
    with JournalWriter(world.paths.journal_dir, role="gateway") as writer:
        empty = "몰라도 되는 질문을 아주 길게 늘여서 거절당하게 만든 사람의 글"
        first, second = halves("01JD8Y7K3M5QX0R2T4V6W8Z9AB", empty)
        at = writer.append_blocking(FrameKind.REQUEST, first.payload())
        failed = second.payload() | {"request_seq": at.seq, "outcome": "llm_error", "llm_response_content": None}
        writer.append_blocking(FrameKind.RESPONSE, failed)
    ingest(world.paths, NOW)
    version = build(world)
    folder = world.paths.datasets_dir / version
    assert empty in (folder / "rejects.jsonl").read_text()
    report = erase(world, value=first.request_id, at_once=True)
    assert report["state"] == "proven" and report["datasets_withdrawn"] == [] and left_of(world, empty) == []
    assert verify(folder)["disjoint"] and Registry(world.paths.models_dir).get(world.adapter).state == "champion"
    (folder / "rejects.jsonl").write_bytes(b"{}\n")
    with pytest.raises(Exception, match="sha256"):
        read_dataset(folder)


def test_a_file_of_an_unknown_kind_is_named_and_nothing_counts_as_proven(world: World) -> None:
    strange = world.paths.data_dir / "notes.bin"
    strange.write_bytes(b"\x00" + QUESTIONS[0].encode())
    with pytest.raises(ErasureError, match=r"notes\.bin"):
        erase(world, at_once=True)
    (work,) = open_works(world.paths.erasures_dir)
    assert work.state == "removed" and strange.exists()
    strange.unlink()
    assert run_due(world.paths, NOW, at_once=True, log=quiet)[0]["state"] == "proven"


def test_tables_can_still_be_written_after(world: World) -> None:
    open_table(world.paths.lake_dir, "requests").create_checkpoint()
    erase(world, at_once=True)
    with JournalWriter(world.paths.journal_dir, role="gateway") as writer:
        rid = ask(writer, "지운 다음에도 새로 들어오는 질문은 그대로 들어와야 합니다")
    assert ingest(world.paths, NOW).rows_added["requests"] == 1 and rid in requests_of(world)
    assert GOOD in scan(world.paths.lake_dir, "requests").collect()["llm_response_content"].to_list()
