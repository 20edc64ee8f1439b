"""From a block of journal records to rows of one table: parsed and checked in bulk, record by record where one is odd.

Reads segments where a payload is not at hand; writes nothing. `prepare` needs no table and may run ahead; `decide`
says what becomes of each record on one snapshot. Invariant: each record is a row, dropped with a reason, or named for
quarantine with a reason, and which of them does not depend on how it was parsed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from lake.erased_ids import NAMING_FIELDS, ErasedIds
from lake.errors import IngestError
from lake.ingest_mask import mask_rows
from lake.journal import columns
from lake.journal.frames import Damage, Frame
from lake.journal.index import ID_FIELD, Entry
from lake.journal.payloads import PayloadError, Row, feedback_row, request_row, response_fields, review_row
from lake.journal.reader import parse_payload, read_frame
from lake.marks import TABLE_KINDS
from lake.schemas.tables import TABLES
from lake.tables import existing, to_arrow

_MAKE = {"requests": request_row, "reviews": review_row, "feedback": feedback_row}


class UnusualPayloadError(Exception):
    """A payload is not the record that a look at its first bytes promised: read the worker again, strictly."""


@dataclass(slots=True)
class Prepared:
    """Records of one table. `rows`: one row an entry; None: at least one is odd, so each is looked at alone."""

    name: str
    entries: list[Entry]
    rows: pa.Table | None
    mask_off: frozenset[str] = frozenset()  # types of personal data that stay
    masked: Counter[str] = field(default_factory=Counter[str])  # what was masked in `rows`, by type


@dataclass(slots=True)
class Decision:
    """What becomes of a block on one snapshot, before anything is written."""

    rows: pa.Table
    row_frames: int = 0
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])  # (reason, segment), frames
    halves: Counter[str] = field(default_factory=Counter[str])  # by segment: dropped ones that have no request here
    bad: list[tuple[Entry, str]] = field(default_factory=list[tuple[Entry, str]])
    ignored: Counter[str] = field(default_factory=Counter[str])
    masked: Counter[str] = field(default_factory=Counter[str])  # personal data, by type; of dropped rows too

    def drop_half(self, reason: str, entry: Entry) -> None:
        """Count a second half that goes with no request of this block."""
        self.dropped[reason, entry.segment.name] += 1
        self.halves[entry.segment.name] += 1


def prepare(name: str, entries: list[Entry], mask_off: frozenset[str]) -> Prepared:
    """Parse and mask a block in bulk where all of it is usual; payloads are let go then."""
    if not entries:
        return Prepared(name, entries, TABLES[name].empty_table())
    keys = [entry.key for entry in entries]
    rows = columns.rows(
        name,
        [_bytes(entry) for entry in entries],
        keys,
        [entry.segment.name for entry in entries],
        [entry.seq for entry in entries],
    )
    if rows is not None and name == "requests":
        answers = [None if entry.response is None else _bytes(entry.response) for entry in entries]
        rows = columns.with_answers(rows, answers, keys)
    if rows is None:
        return Prepared(name, entries, None, mask_off)
    for entry in entries:
        entry.payload = None
        if entry.response is not None:
            entry.response.payload = None
    rows, masked = mask_rows(name, rows, mask_off)
    return Prepared(name, entries, rows, mask_off, masked)


def decide(table: DeltaTable, prepared: Prepared, erased: ErasedIds) -> Decision:
    """Which records become rows, given what `table` holds and what was erased.

    Raises `UnusualPayloadError`, and `IngestError` for a record of a later version.
    """
    seen = existing(table, ID_FIELD[TABLE_KINDS[prepared.name]], {entry.key for entry in prepared.entries})
    if prepared.rows is None:
        return _one_by_one(prepared, seen, erased)
    decision = Decision(prepared.rows, masked=prepared.masked)
    gone = _erased_rows(prepared, erased)
    keep: list[bool] = []
    for position, entry in enumerate(prepared.entries):
        reason = "erased" if position in gone else "duplicate_id" if entry.key in seen else ""
        keep.append(not reason)
        if reason:
            decision.dropped[reason, entry.segment.name] += entry.frames
        else:
            seen.add(entry.key)
            decision.row_frames += entry.frames
    if not all(keep):
        decision.rows = prepared.rows.filter(pa.array(keep))
    return decision


def _erased_rows(prepared: Prepared, erased: ErasedIds) -> set[int]:
    """Positions of what was erased, or names something that was."""
    if not erased:
        return set()
    rows: Any = prepared.rows
    named = {ID_FIELD[TABLE_KINDS[prepared.name]], *(set(NAMING_FIELDS) & set(rows.schema.names))}
    return {
        position
        for column in named
        for position, one in enumerate(rows.column(column).to_pylist())
        if erased.holds(one)
    }


def _one_by_one(prepared: Prepared, seen: set[str], erased: ErasedIds) -> Decision:
    decision = Decision(TABLES[prepared.name].empty_table())
    rows: list[Row] = []
    for entry in prepared.entries:
        if erased and (erased.holds(entry.key) or (prepared.name != "requests" and erased.names(_payload(entry)))):
            decision.dropped["erased", entry.segment.name] += entry.frames
            continue
        if entry.key in seen:
            decision.dropped["duplicate_id", entry.segment.name] += entry.frames
            continue
        try:
            row = _row(prepared.name, entry, decision)
        except PayloadError as error:
            decision.bad.append((entry, f"invalid {prepared.name}: {error}"))
            if entry.response is not None:
                decision.bad.append((entry.response, "its request half is invalid"))
            continue
        seen.add(entry.key)
        rows.append(row)
    decision.rows, decision.masked = mask_rows(prepared.name, to_arrow(prepared.name, rows), prepared.mask_off)
    return decision


def _row(name: str, entry: Entry, decision: Decision) -> Row:
    ignored: Counter[str] = Counter()
    row = _MAKE[name](_payload(entry), entry.segment.name, entry.seq, ignored)
    decision.row_frames += 1
    if entry.response is not None:
        try:
            row |= response_fields(_payload(entry.response), ignored)
            if row.get("stored") is False:
                row |= {"llm_response_content": None, "error": (row["error"] or "").split(":", 1)[0] or None}
            decision.row_frames += 1
        except PayloadError as error:
            decision.bad.append((entry.response, f"invalid response: {error}"))
            row["error"] = f"its response half is in quarantine ({error})"
    decision.ignored += ignored
    return row


def _payload(entry: Entry) -> Mapping[str, Any]:
    found = parse_payload(Frame(entry.offset, entry.size, entry.kind, 0, entry.seq, _bytes(entry)))
    if found is None or found.get(ID_FIELD[entry.kind]) != entry.key:
        raise UnusualPayloadError
    return found


def _bytes(entry: Entry) -> bytes:
    """The payload, from memory or read again. Raises `IngestError` where the segment changed."""
    if entry.payload is not None:
        return entry.payload
    frame = read_frame(entry.segment.path, entry.offset, entry.size)
    if isinstance(frame, Damage) or frame.kind != entry.kind:
        raise IngestError(f"{entry.segment.name} changed at byte {entry.offset} while it was read: run ingest again.")
    return frame.payload
