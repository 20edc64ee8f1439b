"""Reviews step: a JSONL file of golden answers → REVIEW records in the journal.

The journal, not the lake, is written: reviews take the same durable way as requests and reach the lake with the
next ingest. A review's id is the hash of what it says, and ids that the journal or the lake holds already are
skipped, so importing the same file twice changes nothing.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from flows.steps.stage import StageContext
from lake.errors import DatasetError, InputError
from lake.files import canonical_json, sha256_bytes
from lake.ingest import ingest
from lake.journal.writer import JournalWriter
from lake.prompt import check_question
from lake.schemas.records import FrameKind, ReviewRecord
from lake.tables import scan
from lake.text import detect_lang, nfc

MAX_ANSWER_CHARS = 4_000


def parse_review(line: bytes, now: str) -> ReviewRecord:
    """One JSONL line as a record. Raises `InputError` with what is wrong."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InputError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InputError("not a JSON object")
    question = check_question(row.get("question"))
    answer = row.get("answer")
    if not isinstance(answer, str) or not answer.strip():
        raise InputError("`answer` is missing or empty")
    if len(answer) > MAX_ANSWER_CHARS:
        raise InputError(f"`answer` has {len(answer)} characters, at most {MAX_ANSWER_CHARS} are allowed")
    lists: dict[str, list[str]] = {}
    for key in ("tools", "also"):
        value = row.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise InputError(f"`{key}` must be a list of tool ids")
        lists[key] = value
    request_id = row.get("request_id")
    if request_id is not None and not isinstance(request_id, str):
        raise InputError("`request_id` must be text")
    content = {
        "question": question,
        "answer": nfc(answer.strip()),
        "reviewer": nfc(str(row.get("reviewer", ""))),
        "lang": row.get("lang") if row.get("lang") in ("ko", "en") else detect_lang(question),
        "request_id": request_id,
        **lists,
    }
    return ReviewRecord(review_id=sha256_bytes(canonical_json(content))[:24], timestamp=now, **content)


def run_reviews(stage: StageContext, file: str) -> dict[str, Any]:
    """Journal every new review. Raises `DatasetError` when the file can't be read or holds no good row."""
    path = Path(file)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DatasetError(f"The reviews {path} can't be read ({error.strerror}): check the path.") from error
    ingest(stage.lake, datetime.now(UTC))  # so that the lake knows what earlier imports journalled
    known = set(scan(stage.lake.lake_dir, "reviews").select("review_id").collect()["review_id"].to_list())
    now = datetime.now(UTC).isoformat()
    rejects: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    progress = stage.progress(len(lines))
    writer = JournalWriter(stage.lake.journal_dir, role="reviews")
    try:
        for number, line in enumerate(lines, start=1):
            progress.advance()
            if not line.strip():
                continue
            try:
                record = parse_review(line, now)
            except InputError as error:
                rejects.append({"line": number, "reason": str(error)})
                continue
            if record.review_id in known:
                counts["already_there"] += 1
                continue
            known.add(record.review_id)
            writer.append_blocking(FrameKind.REVIEW, record.payload())
            counts["journalled"] += 1
    finally:
        writer.close()
    if not counts:
        raise DatasetError(f"{path} holds no usable review; first: {rejects[:1]}", rejects=rejects)
    for reject in rejects:
        stage.log(f"{path}:{reject['line']}: {reject['reason']}")
    return {"file": str(path), **counts, "rejected": len(rejects), "rejects": rejects[:100]}
