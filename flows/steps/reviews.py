"""Reviews step: a file of golden answers → REVIEW records in the journal.

The journal, not the lake, is written: reviews take the same durable way as requests and reach the lake with the
next ingest. A review's id is the hash of what it says, and ids that the journal or the lake holds already are
skipped, so importing the same file twice changes nothing. Beside each answer stands what the model had said (of the
request it names, else of the newest one with that question, else what the file says), and who said it. Every entry of
the file is journalled, already there, unanswered, or rejected with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import polars as pl

from flows.steps.stage import StageContext
from lake.errors import DatasetError, InputError, QuestionError
from lake.files import canonical_json, sha256_bytes
from lake.ingest import ingest
from lake.journal.writer import JournalWriter
from lake.location import LakeDir
from lake.prompt import check_question
from lake.review_formats import BadEntry, load
from lake.schemas.records import FrameKind, ReviewRecord
from lake.tables import scan
from lake.text import detect_lang, nfc

MAX_ANSWER_CHARS = 4_000
MAX_REVIEWER_CHARS = 100
Row = Mapping[str, Any]


class _Refused(Exception):
    """Why an entry is no review: a code to count and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Originals:
    """What the lake holds of the requests that a file speaks of."""

    of_request: Mapping[str, Row]
    of_question: Mapping[str, Row]  # the newest answered one

    @classmethod
    def read(cls, lake_dir: LakeDir, rows: Iterable[Row]) -> Originals:
        """One look-up for all rows of a file."""
        listed = list(rows)
        ids = {one for row in listed if isinstance(one := row.get("request_id"), str)}
        questions = {nfc(one).strip() for row in listed if isinstance(one := row.get("question"), str)}
        asked = pl.col("user_query").is_in(pl.Series(sorted(questions), dtype=pl.String).implode())
        found = (
            scan(lake_dir, "requests")
            .filter(pl.col("request_id").is_in(pl.Series(sorted(ids), dtype=pl.String).implode()) | asked)
            .select("request_id", "timestamp", "user_query", "llm_response_content", "model", "adapter", "stored")
            .collect()
            .sort("timestamp", "request_id")
            .to_dicts()
        )
        answered = [row for row in found if row["llm_response_content"] and row["stored"] is not False]
        return cls({row["request_id"]: row for row in found}, {row["user_query"]: row for row in answered})


def _ids(row: Row, key: str) -> list[str]:
    value: object = row.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in cast("list[object]", value)):
        raise _Refused("bad_tools", f"`{key}` must be a list of tool ids")
    return cast("list[str]", value)


def _text(row: Row, key: str) -> str | None:
    value: object = row.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise _Refused(f"bad_{key}", f"`{key}` must be text")
    return nfc(value)


def _time(row: Row, now: str) -> str:
    """When it was reviewed, where the file says so; never after `now`."""
    said = row.get("reviewed_at")
    try:
        time = datetime.fromisoformat(said) if isinstance(said, str) else None
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        return now
    return min(time.astimezone(UTC), datetime.fromisoformat(now)).isoformat()


def review_record(row: Row, now: str, source: str, originals: Originals) -> ReviewRecord:
    """One row of a file as a record. Raises `_Refused` with what is wrong."""
    request_id = _text(row, "request_id")
    request = originals.of_request.get(request_id or "")
    if request is not None and request["stored"] is False:
        raise _Refused("opted_out", "the caller of this request opted out of storage: it can't be reviewed")
    try:
        question = check_question(row.get("question") or (request or {}).get("user_query"))
    except QuestionError as error:
        raise _Refused("bad_question", str(error)) from error
    answer = row.get("answer")
    if not isinstance(answer, str) or not answer.strip():
        raise _Refused("no_answer", "`answer` is missing or empty")
    if len(answer) > MAX_ANSWER_CHARS:
        raise _Refused("long_answer", f"`answer` has {len(answer)} characters, at most {MAX_ANSWER_CHARS} are allowed")
    content: dict[str, Any] = {
        "question": question,
        "answer": nfc(answer.strip()),
        "reviewer": nfc(str(row.get("reviewer") or ""))[:MAX_REVIEWER_CHARS],
        "lang": row.get("lang") if row.get("lang") in ("ko", "en") else detect_lang(question),
        "request_id": request_id,
        **{key: _ids(row, key) for key in ("tools", "also")},
    }
    time = _time(row, now)
    said_when = {"reviewed_at": time} if time != now else {}  # who returns to an earlier answer says it anew
    original = request or originals.of_question.get(question)
    kept: dict[str, Any]
    if original is not None:
        kept = {
            "original_answer": original["llm_response_content"],
            "original_model": original["model"],
            "original_adapter": original["adapter"],
            "original_request_id": original["request_id"],
        }
    else:
        named = {"original_answer": "model_answer", "original_model": "model", "original_adapter": "adapter"}
        kept = {name: _text(row, key) for name, key in named.items()} | {"original_request_id": request_id}
    return ReviewRecord(
        review_id=sha256_bytes(canonical_json(content | said_when))[:24],
        timestamp=time,
        source=source,
        **content,
        **kept,
    )


def run_reviews(stage: StageContext, file: str, form: str = "jsonl") -> dict[str, Any]:
    """Journal every new review. Raises `DatasetError` when the file can't be read or holds nothing usable."""
    path = Path(file)
    try:
        entries = list(load(form, path.read_bytes()))
    except OSError as error:
        raise DatasetError(f"The reviews {path} can't be read ({error.strerror}): check the path.") from error
    except InputError as error:
        raise DatasetError(f"{path}: {error}") from error
    ingest(stage.lake, datetime.now(UTC))  # so that the lake knows what earlier imports journalled
    known = set(scan(stage.lake.lake_dir, "reviews").select("review_id").collect()["review_id"].to_list())
    originals = Originals.read(stage.lake.lake_dir, (row for _, row in entries if isinstance(row, Mapping)))
    now = datetime.now(UTC).isoformat()
    rejects: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    progress = stage.progress(len(entries))
    writer = JournalWriter(stage.lake.journal_dir, role="reviews")
    try:
        for number, row in entries:
            progress.advance()
            if row is None:
                counts["unanswered"] += 1
                continue
            try:
                if isinstance(row, BadEntry):
                    raise _Refused(row.code, row.message)
                record = review_record(row, now, form, originals)
            except _Refused as refused:
                rejects.append({"line": number, "code": refused.code, "reason": str(refused)})
                continue
            if record.review_id in known:
                counts["already_there"] += 1
                continue
            known.add(record.review_id)
            writer.append_blocking(FrameKind.REVIEW, record.payload())
            counts["journalled"] += 1
            counts["with_original"] += record.original_answer is not None
    finally:
        writer.close()
    if not counts:
        raise DatasetError(f"{path} holds no usable review; first: {rejects[:1]}", rejects=rejects)
    for reject in rejects:
        stage.log(f"{path}:{reject['line']}: {reject['reason']}")
    reasons = Counter(reject["code"] for reject in rejects)
    return {
        "file": str(path), "entries": len(entries), **counts, "rejected": len(rejects), "reasons": dict(reasons),
        "rejects": rejects[:100],
    }  # fmt: skip
