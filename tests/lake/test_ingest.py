"""Exactly-once ingest: replay, rivals, death, damage, duplicates, halves that never come; the ledger
closes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from lake.errors import IngestError
from lake.journal.disk import OsDisk
from lake.journal.frames import encode
from lake.journal.reader import find, list_segments
from lake.journal.writer import JournalWriter
from lake.marks import marker_id
from lake.schemas.records import (
    RECORD_VERSION,
    FrameKind,
)
from lake.settings import LakeSettings
from lake.tables import open_table
from tests.lake.ingest_kit import NOW, ROOT, feedback, ids, ingest, put, request, response, review, rows, serve


@pytest.fixture
def paths(tmp_path: Path) -> LakeSettings:
    return LakeSettings(data_dir=tmp_path)


def test_rows_hold_what_was_journalled_and_a_second_run_adds_nothing(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        (rid,) = serve(writer)
        put(writer, FrameKind.REVIEW, review(1, request_id=rid))
        put(writer, FrameKind.FEEDBACK, feedback(1, rid))
        report = ingest(paths, NOW)  # the worker still lives
    assert report.rows_added == {"requests": 1, "reviews": 1, "feedback": 1}
    assert report.run.to_dict() == report.total.to_dict()
    assert (report.total.journalled, report.total.ingested, report.alive) == (4, 4, 1)
    (row,) = rows(paths)
    assert row["request_id"] == rid and row["date"] == "2026-03-01" and row["timestamp"] == NOW
    assert row["llm_response_content"] == "추천: Jira" and row["outcome"] == "answered" and row["adapter"] == "a1"
    assert row["retrieved_items"][0]["tags"] == ["pm"]
    assert row["retrieved_items"][0]["scores"] == {"dense": 0.9, "lexical": None, "rerank": None}
    assert row["latency_ms"]["llm"] == 900.0 and row["prompt_tokens"] == 120 and row["seq"] == 1
    assert row["segment"] == f"{writer.directory.name}/00000001.mjl"
    assert rows(paths, "reviews")[0]["tools"] == ["jira"] and rows(paths, "feedback")[0]["score"] == 5
    again = ingest(paths, NOW)
    assert again.rows_added == {"requests": 0, "reviews": 0, "feedback": 0}
    assert again.versions == report.versions and again.run.journalled == 0 and again.total.ingested == 4
    assert again.to_dict()["total"]["closes"] is True
    halves = find(paths.journal_dir, rid)
    assert halves.request == request(rid) and halves.response == response(rid, 1)
    assert find(paths.journal_dir, "none").request is None


def test_an_empty_journal_closes(paths: LakeSettings) -> None:
    assert ingest(paths, NOW).total.to_dict()["journalled"] == 0


def test_the_offset_never_passes_a_pending_request(paths: LakeSettings) -> None:
    writer = JournalWriter(paths.journal_dir, role="gateway")
    (first,) = serve(writer)
    slow = put(writer, FrameKind.REQUEST, request("slow"))
    (later,) = serve(writer)
    put(writer, FrameKind.REVIEW, review(1))
    report = ingest(paths, NOW + timedelta(seconds=30))
    assert ids(paths) == [first]
    assert report.total.pending == 3 and report.oldest_pending_s == 30 and report.rows_added["reviews"] == 1
    name = f"{writer.directory.name}/{slow.segment}"
    assert open_table(paths.lake_dir, "requests").transaction_version(marker_id(name)) == slow.offset
    put(writer, FrameKind.RESPONSE, response("slow", slow.seq))
    assert ingest(paths, NOW).total.pending == 0
    assert ids(paths) == sorted([first, later, "slow"])
    writer.close()
    ingest(paths, NOW)
    assert len(rows(paths)) == 3


def test_a_response_in_a_later_segment_finds_its_request(paths: LakeSettings) -> None:
    writer = JournalWriter(paths.journal_dir, role="gateway", segment_max_bytes=4000)
    slow = put(writer, FrameKind.REQUEST, request("slow"))
    served = serve(writer, 12)
    ingest(paths, NOW)
    assert rows(paths) == []
    assert len(list_segments(writer.directory)) > 3
    put(writer, FrameKind.RESPONSE, response("slow", slow.seq))
    ingest(paths, NOW)
    assert ids(paths) == sorted([*served, "slow"])
    writer.close()


def test_a_pending_half_of_a_dead_worker_is_aborted(paths: LakeSettings) -> None:
    code = """
import os, sys
from pathlib import Path
from lake.journal.writer import JournalWriter
from lake.schemas.records import RECORD_VERSION, FrameKind
import orjson
writer = JournalWriter(Path(sys.argv[1]), role="gateway")
writer.append_blocking(FrameKind.REQUEST, orjson.loads(sys.argv[2]))
print("written", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(paths.journal_dir), orjson.dumps(request("lost")).decode()],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout and process.stdin and process.stdout.readline() == b"written\n"
    assert ingest(paths, NOW).total.pending == 1 and rows(paths) == []
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()
    report = ingest(paths, NOW)
    (row,) = rows(paths)
    assert (row["request_id"], row["outcome"], row["backend"]) == ("lost", "aborted", None)
    assert (report.total.pending, report.total.ingested, report.alive) == (0, 1, 0)


def test_a_request_whose_caller_was_told_no_holds_nothing_up(paths: LakeSettings) -> None:
    class Disk(OsDisk):
        broken = False

        def fdatasync(self, fd: int) -> None:
            if self.broken:
                self.broken = False
                raise OSError(5, "Input/output error")
            super().fdatasync(fd)

    disk = Disk()
    with JournalWriter(paths.journal_dir, role="gateway", disk=disk) as writer:
        disk.broken = True
        with pytest.raises(Exception, match="log_unavailable"):
            put(writer, FrameKind.REQUEST, request("refused"))
        assert ingest(paths, NOW).total.pending == 1  # nobody knows yet
        (rid,) = serve(writer)
        report = ingest(paths, NOW)
    assert ids(paths) == sorted([rid, "refused"]) and report.total.pending == 0
    assert {row["request_id"]: row["outcome"] for row in rows(paths)} == {
        "refused": "aborted",
        rid: "answered",
    }


def test_copied_segments_and_repeated_ids_are_dropped_with_a_reason(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        served = serve(writer, 3)
        again = put(writer, FrameKind.REQUEST, request(served[0]))
        put(writer, FrameKind.RESPONSE, response(served[0], again.seq))
        put(writer, FrameKind.REVIEW, review(1))
    ingest(paths, NOW)
    shutil.copytree(writer.directory, paths.journal_dir / "restored")
    report = ingest(paths, NOW)
    assert report.rows_added == {"requests": 0, "reviews": 0, "feedback": 0}
    assert report.run.dropped == {
        "duplicate_id": 8,
        "duplicate_response": 1,
    }  # 3 × 2 halves, one more, a review
    assert report.total.dropped == {"duplicate_id": 9, "duplicate_response": 2}
    assert ids(paths) == sorted(served)
    assert ingest(paths, NOW).total.to_dict() == report.total.to_dict()


BAD_REQUESTS: list[dict[str, Any]] = [
    {"user_query": None},
    {"user_query": 5},
    {"timestamp": "yesterday"},
    {"timestamp": "2026-03-01T12:00:00"},
    {"top_k": True},
    {"top_k": 2**31},
    {"retrieved_items": [{"rank": 1}]},
    {"retrieved_items": "none"},
    {"version": "1"},
]


def test_invalid_payloads_go_to_quarantine_with_a_reason(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        for n, change in enumerate(BAD_REQUESTS):
            at = put(writer, FrameKind.REQUEST, request(f"bad-{n}", **change))
            put(writer, FrameKind.RESPONSE, response(f"bad-{n}", at.seq))
        at = put(writer, FrameKind.REQUEST, request("half"))
        put(writer, FrameKind.RESPONSE, response("half", at.seq, outcome="fine"))
        put(writer, FrameKind.REQUEST, {"no": "id"})
        put(writer, FrameKind.REVIEW, review(1, answer=None))
        put(writer, FrameKind.FEEDBACK, feedback(1, "x", score=6))
        put(writer, FrameKind.FEEDBACK, feedback(2, "x", thumb="sideways"))
        serve(writer)
    report = ingest(paths, NOW)
    assert len(rows(paths)) == 2
    broken = next(row for row in rows(paths) if row["request_id"] == "half")
    assert broken["outcome"] == "aborted" and "outcome" in broken["error"]
    assert report.total.quarantined == 2 * len(BAD_REQUESTS) + 5
    assert report.quarantine_reasons["invalid requests: user_query: missing"] == 1
    assert report.quarantine_reasons["invalid requests: retrieved_items[0].score: missing"] == 1
    assert report.quarantine_reasons["no_request_id"] == 1
    assert report.quarantine_reasons["invalid feedback: score: 6 is not within 1 to 5"] == 1
    assert ingest(paths, NOW).total.to_dict() == report.total.to_dict()


def test_fields_of_a_later_version_are_counted_and_a_later_version_stops_the_run(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        at = put(writer, FrameKind.REQUEST, request("a", mood="good"))
        put(writer, FrameKind.RESPONSE, response("a", at.seq, latency_ms={"llm": 1, "plan": 2}))
        assert ingest(paths, NOW).ignored_fields == {"mood": 1, "latency_ms.plan": 1}
        put(writer, FrameKind.REVIEW, review(1, version=RECORD_VERSION + 1))
        with pytest.raises(IngestError, match="upgrade"):
            ingest(paths, NOW)
        path = writer.directory / "00000001.mjl"
    path.write_bytes(path.read_bytes() + encode(99, 50, b"{}") + encode(3, 51, b"{}", flags=1) + encode(3, 52, b"[]"))
    with pytest.raises(IngestError, match="upgrade"):
        ingest(paths, NOW)
    held = list((paths.data_dir / "quarantine").rglob("*.json"))
    assert len(held) == 3


def test_a_review_keeps_what_it_corrects_and_older_ones_are_read(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="t") as writer:
        said = {"original_answer": "추천: Trello", "original_model": "m", "original_adapter": "a1", "source": "api"}
        put(writer, FrameKind.REVIEW, review(1, original_request_id="q1", **said))
        old = {key: value for key, value in review(2).items() if not key.startswith(("original", "source"))}
        put(writer, FrameKind.REVIEW, old | {"version": 2})
    ingest(paths, NOW)
    new, before = rows(paths, "reviews")
    assert {key: new[key] for key in said} == said and new["original_request_id"] == "q1"
    assert before["original_answer"] is None and before["record_version"] == 2
