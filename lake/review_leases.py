"""Who works on which item of the review queue: leases, so that several reviewers never get the same item unawares.

Reads and writes one SQLite file (WAL) beside the lake, `data/review-leases.sqlite3`; any number of processes may use
it at once. It holds ids, values and names of reviewers, and no text, so nothing in it can outlive an erasure but ids.
The queue itself comes from the lake (`lake/review_queue.py`): `offer` says what is open now. Golden answers go through
the journal; `done` only notes here that one was given, until the item leaves the queue with the next offer.

Invariants: an item is leased to at most as many reviewers at once as opinions are wanted on it, opinions given since
the last offer counted in; a reviewer holds one lease at a time, and never gets an item that they reviewed or skipped.
Times are UTC. Losing the file loses leases and skips, no reviews.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson
from ulid import ULID

from lake.errors import InputError, LeaseLostError, SetupError

BUSY_S = 10.0  # longest wait for another process's write
MAX_REASON_CHARS = 200
_SCHEMA = """
CREATE TABLE IF NOT EXISTS items (
    item_id TEXT PRIMARY KEY, value REAL NOT NULL, lang TEXT NOT NULL, request_id TEXT,
    wanted INTEGER NOT NULL, reviewers TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS items_by_value ON items (value DESC, item_id);
CREATE TABLE IF NOT EXISTS leases (
    item_id TEXT NOT NULL, reviewer TEXT NOT NULL UNIQUE, token TEXT NOT NULL, until REAL NOT NULL,
    PRIMARY KEY (item_id, reviewer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL, reviewer TEXT NOT NULL,
    kind TEXT NOT NULL, reason TEXT NOT NULL, review_id TEXT, at REAL NOT NULL,
    UNIQUE (item_id, reviewer));
"""
_TAKEN = """(SELECT count(*) FROM leases WHERE leases.item_id = items.item_id)
      + (SELECT count(*) FROM marks WHERE marks.item_id = items.item_id AND kind = 'done')"""
_NEXT = f"""
SELECT item_id FROM items WHERE (:lang IS NULL OR lang = :lang)
    AND NOT EXISTS (SELECT 1 FROM marks WHERE marks.item_id = items.item_id AND reviewer = :reviewer)
    AND NOT EXISTS (SELECT 1 FROM json_each(items.reviewers) WHERE json_each.value = :reviewer)
    AND {_TAKEN} < wanted
ORDER BY value DESC, item_id LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Offer:
    """An open item. `wanted`: how many opinions it still needs; `reviewers`: who gave one that the lake knows."""

    item_id: str
    value: float
    lang: str
    request_id: str | None = None
    wanted: int = 1
    reviewers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lease:
    """`item_id` is `reviewer`'s until `until` (UTC); `token` proves it."""

    item_id: str
    reviewer: str
    token: str
    until: datetime
    request_id: str | None


@dataclass(frozen=True, slots=True)
class Undone:
    """What was taken back; `lease` where the item could be handed back to the reviewer."""

    item_id: str
    kind: Literal["done", "skipped"]
    review_id: str | None
    lease: Lease | None


def offers(items: Iterable[dict[str, Any]], reviewers: int = 1) -> Iterator[Offer]:
    """Rows of `Queue.items` as offers; `reviewers`: how many people shall review each. A conflict wants one more."""
    for row in items:
        known = tuple(row["reviewers"])
        wanted = max(1, reviewers - len(known))
        yield Offer(row["item_id"], row["value"], row["lang"], row["request_id"], wanted, known)


class ReviewLeases:
    """The file, opened for each call: safe in threads, forks and processes. `lease_s`: how long a lease lasts."""

    def __init__(self, path: Path, lease_s: float = 900.0) -> None:
        self._path = path
        self._lease_s = lease_s

    def offer(self, items: Iterable[Offer]) -> int:
        """Replace what is open; how many items there are now. Safe to repeat.

        Items that are no longer offered lose their leases and notes; a note `done` goes as soon as the lake knows of
        that review. Offer the whole queue, or its best part with room to spare.
        """
        rows = [
            (one.item_id, one.value, one.lang, one.request_id, one.wanted, orjson.dumps(one.reviewers).decode())
            for one in items
        ]
        with self._write() as db:
            db.execute("DELETE FROM items")
            db.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?, ?)", rows)
            for table in ("leases", "marks"):
                db.execute(f"DELETE FROM {table} WHERE item_id NOT IN (SELECT item_id FROM items)")
            db.execute(
                "DELETE FROM marks WHERE kind = 'done' AND EXISTS (SELECT 1 FROM items, json_each(items.reviewers)"
                " WHERE items.item_id = marks.item_id AND json_each.value = marks.reviewer)"
            )
        return len(rows)

    def lease_next(self, reviewer: str, now: datetime, lang: str | None = None) -> Lease | None:
        """The most valuable item that this reviewer may have, or the one they hold; None where nothing is left.

        `lang` (ko, en) narrows it. Safe to retry: it gives the same item again.
        """
        name = _reviewer(reviewer)
        with self._write() as db:
            db.execute("DELETE FROM leases WHERE until <= ?", (now.timestamp(),))
            held = db.execute("SELECT item_id FROM leases WHERE reviewer = ?", (name,)).fetchone()
            found = held or db.execute(_NEXT, {"reviewer": name, "lang": lang}).fetchone()
            return None if found is None else self._grant(db, found[0], name, now)

    def _grant(self, db: sqlite3.Connection, item_id: str, reviewer: str, now: datetime) -> Lease:
        until = now.timestamp() + self._lease_s
        db.execute(
            "INSERT INTO leases VALUES (?, ?, ?, ?) ON CONFLICT (reviewer) DO UPDATE SET until = excluded.until",
            (item_id, reviewer, str(ULID()), until),
        )
        (token,) = db.execute("SELECT token FROM leases WHERE reviewer = ?", (reviewer,)).fetchone()
        (request_id,) = db.execute("SELECT request_id FROM items WHERE item_id = ?", (item_id,)).fetchone()
        return Lease(item_id, reviewer, token, datetime.fromtimestamp(until, UTC), request_id)

    def renew(self, lease: Lease, now: datetime) -> Lease:
        """The lease with its full time again. Raises `LeaseLostError`. Safe to retry."""
        with self._write() as db:
            self._require(db, lease)
            return self._grant(db, lease.item_id, lease.reviewer, now)

    def release(self, lease: Lease) -> None:
        """Give the item back, for anyone (the reviewer too). Safe to retry: a lease that is lost is not an error."""
        with self._write() as db:
            db.execute("DELETE FROM leases WHERE token = ?", (lease.token,))

    def skip(self, lease: Lease, reason: str, now: datetime) -> None:
        """Give the item back for the others, and say why. Raises `LeaseLostError`, `InputError` without a reason."""
        text = " ".join(reason.split())[:MAX_REASON_CHARS]
        if not text:
            raise InputError("A skipped item needs a reason: say in a few words why.", field="reason")
        with self._write() as db:
            self._require(db, lease)
            self._mark(db, lease, "skipped", text, None, now)

    def done(self, lease: Lease, review_id: str, now: datetime) -> None:
        """A golden answer was journalled as `review_id`. Taken even where the lease is lost: work is never refused."""
        with self._write() as db:
            self._mark(db, lease, "done", "", review_id, now)

    def undo(self, reviewer: str, now: datetime) -> Undone | None:
        """Take back the reviewer's last `done` or `skip` and hand them the item again, if it is still to be had.

        None where there is nothing to take back. A journalled review stays as it is: the reviewer's next one on the
        question counts in its place.
        """
        name = _reviewer(reviewer)
        with self._write() as db:
            db.execute("DELETE FROM leases WHERE until <= ?", (now.timestamp(),))
            last = db.execute(
                "SELECT number, item_id, kind, review_id FROM marks WHERE reviewer = ? ORDER BY number DESC LIMIT 1",
                (name,),
            ).fetchone()
            if last is None:
                return None
            number, item_id, kind, review_id = last
            db.execute("DELETE FROM marks WHERE number = ?", (number,))
            db.execute("DELETE FROM leases WHERE reviewer = ?", (name,))
            free = db.execute(f"SELECT {_TAKEN} < wanted FROM items WHERE item_id = ?", (item_id,)).fetchone()
            lease = self._grant(db, item_id, name, now) if free is not None and free[0] else None
            return Undone(item_id, kind, review_id, lease)

    def counts(self, now: datetime) -> dict[str, Any]:
        """Items open, under lease, reviewed and skipped (by reason) since they were offered."""
        with self._write() as db:
            (open_items,) = db.execute("SELECT count(*) FROM items").fetchone()
            (leased,) = db.execute("SELECT count(*) FROM leases WHERE until > ?", (now.timestamp(),)).fetchone()
            (done,) = db.execute("SELECT count(*) FROM marks WHERE kind = 'done'").fetchone()
            skipped = db.execute(
                "SELECT reason, count(*) FROM marks WHERE kind = 'skipped' GROUP BY reason ORDER BY reason"
            ).fetchall()
            return {"open": open_items, "leased": leased, "done": done, "skipped": dict(skipped)}

    def _require(self, db: sqlite3.Connection, lease: Lease) -> None:
        if db.execute("SELECT 1 FROM leases WHERE token = ?", (lease.token,)).fetchone() is None:
            raise LeaseLostError("This item is no longer yours (the lease ran out): take the next one.")

    def _mark(
        self, db: sqlite3.Connection, lease: Lease, kind: str, reason: str, review_id: str | None, now: datetime
    ) -> None:
        db.execute(
            "INSERT OR REPLACE INTO marks (item_id, reviewer, kind, reason, review_id, at) VALUES (?, ?, ?, ?, ?, ?)",
            (lease.item_id, lease.reviewer, kind, reason, review_id, now.timestamp()),
        )
        db.execute("DELETE FROM leases WHERE token = ?", (lease.token,))

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that nobody else writes beside; it is on disk when the block is left, or rolled back."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)) as db:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = FULL")
                db.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                yield db
                db.execute("COMMIT")  # an error before this closes the connection, which rolls back
        except (sqlite3.DatabaseError, OSError) as error:
            raise SetupError(
                f"The review leases at {self._path} can't be used ({error}): try again, or move the file away; that "
                "loses leases and skips, no reviews."
            ) from error


def _reviewer(name: str) -> str:
    """The reviewer's name. Raises `InputError` where there is none: leases can't be told apart without."""
    if not name.strip():
        raise InputError("A reviewer needs a name: send one.", field="reviewer")
    return name.strip()
