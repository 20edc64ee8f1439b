"""Personal data is masked on the way into the lake, whichever way a record was parsed; types can be left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lake.errors import SetupError
from lake.journal.writer import JournalWriter
from lake.schemas.records import FrameKind
from lake.settings import LakeSettings
from tests.lake.ingest_kit import NOW, feedback, ingest, put, request, response, review, rows

PHONE = "010-1234-5678"


@pytest.mark.parametrize("odd", [{}, {"mood": "good"}])
def test_no_phone_number_reaches_a_table(tmp_path: Path, odd: dict[str, str]) -> None:
    """`odd`: an unknown field, so that the block is parsed record by record."""
    paths = LakeSettings(data_dir=tmp_path)
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        for rid, question in (("a", f"연락처 {PHONE} 로 알려줘"), ("b", "이슈 추적 도구?")):
            at = put(writer, FrameKind.REQUEST, request(rid, user_query=question, client_request_id=PHONE, **odd))
            said = {"llm_response_content": f"{PHONE} 입니다", "error": f"bad: {PHONE}"}
            put(writer, FrameKind.RESPONSE, response(rid, at.seq, **said))
        put(writer, FrameKind.REVIEW, review(1, question=PHONE, answer=PHONE, original_answer=PHONE, **odd))
        put(writer, FrameKind.FEEDBACK, feedback(1, "a", comment=PHONE, corrected_answer=PHONE, **odd))
    report = ingest(paths, NOW)
    assert report.masked == {"phone": 12} and report.odd_blocks == bool(odd)
    tables = {name: rows(paths, name) for name in ("requests", "reviews", "feedback")}
    assert "1234" not in str(tables)
    first, second = tables["requests"]
    assert first["user_query"] == "연락처 (PHONE_NUMBER) 로 알려줘" and first["prompt_sha256"] is None
    assert second["user_query"] == "이슈 추적 도구?" and second["prompt_sha256"] == "sha-p"
    assert not any(PHONE.encode() in path.read_bytes() for path in (tmp_path / "lake").rglob("*") if path.is_file())


def test_types_can_be_left_as_they_are(tmp_path: Path) -> None:
    paths = LakeSettings(data_dir=tmp_path, mask_off="phone")
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        put(writer, FrameKind.REVIEW, review(1, question=f"{PHONE} kim@example.com"))
    assert ingest(paths, NOW).masked == {"email": 1}
    assert rows(paths, "reviews")[0]["question"] == f"{PHONE} (EMAIL_ADDRESS)"
    with pytest.raises(SetupError, match="telephone"):
        ingest(LakeSettings(data_dir=tmp_path, mask_off="telephone"), NOW)
