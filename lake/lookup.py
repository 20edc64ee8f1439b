"""One request by its id, wherever it is: journal, private journal, or the lake.

Reads `data/journal/`, `data/private-journal/` and the tables requests and feedback; writes nothing. The id is a
ULID, so it tells when the request was made: segments that were written last before that, and other days' partitions,
are not read. Invariant: a request that was answered is found, ingested or not, until it
is erased; from then on it is nowhere, though its bytes may be on the disk for some days more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import orjson
import pyarrow as pa
import pyarrow.compute as pc
from ulid import ULID

from lake.erased_ids import erased_ids
from lake.errors import InputError
from lake.journal.reader import find, records_of
from lake.location import LakeDir
from lake.schemas.records import FrameKind
from lake.tables import existing_table

_CLOCK_SLACK = timedelta(seconds=60)  # between the clock that made the id and the one that stamped files
_LONGEST_REQUEST = timedelta(hours=2)  # the deadline's own limit is one hour
_RECENT = timedelta(minutes=10)  # younger ones are looked for in the journal first


class LookupPaths(Protocol):
    """What a look-up needs of `LakeSettings`."""

    @property
    def journal_dir(self) -> Path: ...

    @property
    def private_journal_dir(self) -> Path: ...

    @property
    def lake_dir(self) -> LakeDir: ...


@dataclass(frozen=True, slots=True)
class FoundRequest:
    """What is known of one request. `where`: journal, lake, or both. Halves and row are as they are stored."""

    request_id: str
    where: list[str]
    stored: bool  # False: the caller opted out; `request` and `response` then come from the private journal, if kept
    key_id: str | None
    request: dict[str, Any] | None = None
    response: dict[str, Any] | None = None
    row: dict[str, Any] | None = None
    feedback: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def id_time(request_id: str) -> datetime:
    """When the id was made, UTC. Raises `InputError` where it is no ULID."""
    try:
        return ULID.from_str(request_id).datetime.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise InputError("This is no request id: send the `request_id` of an answer (26 characters).") from error


def find_request(paths: LookupPaths, request_id: str, *, with_feedback: bool = False) -> FoundRequest | None:
    """The request, or None where nobody has answered it here. Blocks: reads files. Safe to retry.

    Raises `InputError` where the id is no ULID.
    """
    made = id_time(request_id)
    erased = erased_ids(paths.lake_dir)
    if erased.holds(request_id):
        return None
    halves = find(paths.journal_dir, request_id, made - _CLOCK_SLACK)
    row = _in_table(paths.lake_dir, "requests", request_id, made)
    known = halves.request or row
    if known is None:
        return None
    stored = known.get("store", known.get("stored")) is not False
    where = [*(["journal"] if halves.request or halves.response else []), *(["lake"] if row else [])]
    request, response = halves.request, halves.response
    if not stored:
        private = find(paths.private_journal_dir, request_id, made - _CLOCK_SLACK)
        request, response = private.request or request, private.response or response
    # The private journal first: where the caller opted out, it alone has the words.
    journals = (paths.journal_dir,) if stored else (paths.private_journal_dir, paths.journal_dir)
    said = _feedback(paths.lake_dir, journals, request_id, made) if with_feedback else []
    said = [one for one in said if not erased.holds(one["feedback_id"])]
    return FoundRequest(
        request_id=request_id,
        where=where,
        stored=stored,
        key_id=known.get("key_id"),
        request=request,
        response=response,
        row=row,
        feedback=said,
    )


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What feedback on a request needs to know of it."""

    stored: bool
    key_id: str | None


def request_facts(paths: LookupPaths, request_id: str, now: datetime) -> RequestFacts | None:
    """Whether the request exists, and two facts of it; looks where it most likely is first. `now` is UTC. Blocks.

    Raises `InputError` where the id is no ULID.
    """
    made = id_time(request_id)
    if erased_ids(paths.lake_dir).holds(request_id):
        return None

    def journal() -> dict[str, Any] | None:
        records = records_of(paths.journal_dir, request_id, made - _CLOCK_SLACK)
        return next((payload for kind, payload, _ in records if kind == FrameKind.REQUEST), None)

    def table() -> dict[str, Any] | None:
        return _in_table(paths.lake_dir, "requests", request_id, made)

    recent = now - made < _RECENT
    known = (journal() or table()) if recent else (table() or journal())
    if known is None:
        return None
    return RequestFacts(known.get("store", known.get("stored")) is not False, known.get("key_id"))


def _in_table(lake_dir: LakeDir, name: str, request_id: str, made: datetime) -> dict[str, Any] | None:
    days = {(made + step).date().isoformat() for step in (-_CLOCK_SLACK, timedelta(), _LONGEST_REQUEST)}
    rows = _rows(lake_dir, name, pc.field("date").isin(pa.array(sorted(days))) & (pc.field("request_id") == request_id))
    return rows[0] if rows else None


def _rows(lake_dir: LakeDir, name: str, wanted: Any) -> list[dict[str, Any]]:
    table = existing_table(lake_dir, name)
    if table is None:
        return []
    rows: Any = table.to_pyarrow_dataset().to_table(filter=wanted)
    return rows.to_pylist()


def _feedback(lake_dir: LakeDir, journals: tuple[Path, ...], request_id: str, made: datetime) -> list[dict[str, Any]]:
    """Feedback on a request, oldest first; what is in the journal and in the lake is shown once."""
    since = (made - _CLOCK_SLACK).date().isoformat()
    found: dict[str, dict[str, Any]] = {}
    for root in journals:
        for kind, payload, _ in records_of(root, request_id, made - _CLOCK_SLACK):
            if kind == FrameKind.FEEDBACK:
                found.setdefault(str(payload.get("feedback_id")), payload)
    for row in _rows(lake_dir, "feedback", (pc.field("date") >= since) & (pc.field("request_id") == request_id)):
        found.setdefault(row["feedback_id"], row)
    return [found[one] for one in sorted(found)]


def to_json(found: FoundRequest) -> bytes:
    """The request as JSON; times of the lake's rows become ISO 8601 text."""
    return orjson.dumps(found, option=orjson.OPT_UTC_Z)
