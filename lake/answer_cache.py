"""Answers that were paid for: by content hash, durable on return, never asked twice.

Reads and writes one SQLite file (`data/teacher/answers.sqlite`, `data/synthesis/answers.sqlite`); its key is the hash
of prompt, model and parameters, so a run that was killed goes on where it stopped and another run with the same asks
costs nothing. Beside each answer stand the subjects that it was asked for (request ids, tool ids), by which
`forget` removes it from the disk, and what it cost, by which a run that is resumed still knows what it spent.
A call that failed but may have been charged is noted too, with the most that it can have cost.
One process at a time per file: the second one is told so.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from lake.errors import SetupError

_SCHEMA = """
    PRAGMA secure_delete = ON;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS answers (
        key TEXT PRIMARY KEY, run_id TEXT NOT NULL, model TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT,
        prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, estimated INTEGER NOT NULL,
        cost REAL NOT NULL, latency_ms REAL NOT NULL, at TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS subjects (
        subject TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (subject, key)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS failures (
        run_id TEXT NOT NULL, code TEXT NOT NULL, tokens INTEGER NOT NULL, cost REAL NOT NULL, at TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS answers_by_run ON answers (run_id);
    CREATE INDEX IF NOT EXISTS failures_by_run ON failures (run_id);
"""


@dataclass(frozen=True, slots=True)
class PaidAnswer:
    """One completion as it is kept. `estimated`: the server did not say how many tokens it counted."""

    text: str
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    cost: float  # in the currency of the price settings
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What a run paid so far: answers, and failed calls at the most that they can have cost."""

    tokens: int = 0
    cost: float = 0.0
    failed_tokens: int = 0
    failed_cost: float = 0.0


class AnswerCache:
    """For one thread. A context manager; what `put` took survives a kill and a power cut.

    Raises `SetupError` where another process has the file, or the file can't be used.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = path.with_name(path.name + ".lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise SetupError(f"Another run is asking with {path}: wait until it has ended.") from error
        try:
            self._db = _open(path)
        except sqlite3.Error as error:
            self._lock.close()
            raise _unusable(path, error) from error

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the next process in. Safe to repeat."""
        self._db.close()
        self._lock.close()

    def get(self, key: str, subject: str = "") -> PaidAnswer | None:
        """The answer, noted as one of `subject` too."""
        row = self._db.execute(
            "SELECT text, finish_reason, prompt_tokens, completion_tokens, estimated, cost, latency_ms "
            "FROM answers WHERE key = ?",
            (key,),
        ).fetchone()
        if row is None:
            return None
        if subject:
            with self._db:
                self._db.execute("INSERT OR IGNORE INTO subjects VALUES (?, ?)", (subject, key))
        return PaidAnswer(row[0], row[1], row[2], row[3], bool(row[4]), row[5], row[6])

    def put(self, key: str, subject: str, run_id: str, model: str, answer: PaidAnswer) -> None:
        """Keep it; durable on return. Raises `SetupError` where the disk refuses."""
        values = (
            key, run_id, model, answer.text, answer.finish_reason, answer.prompt_tokens, answer.completion_tokens,
            int(answer.estimated), answer.cost, answer.latency_ms, _now(),
        )  # fmt: skip
        try:
            with self._db:
                self._db.execute(f"INSERT OR REPLACE INTO answers VALUES ({', '.join('?' * len(values))})", values)
                self._db.execute("INSERT OR IGNORE INTO subjects VALUES (?, ?)", (subject, key))
        except sqlite3.Error as error:
            raise _unusable(self._path, error) from error

    def note_failure(self, run_id: str, code: str, tokens: int, cost: float) -> None:
        """A call that brought no answer but may be on the bill: `tokens` and `cost` are the most it can be."""
        try:
            with self._db:
                self._db.execute("INSERT INTO failures VALUES (?, ?, ?, ?, ?)", (run_id, code, tokens, cost, _now()))
        except sqlite3.Error as error:
            raise _unusable(self._path, error) from error

    def spent(self, run_id: str) -> Spent:
        """What `run_id` has paid, in all its attempts."""
        tokens, cost = self._db.execute(
            "SELECT coalesce(sum(prompt_tokens + completion_tokens), 0), coalesce(sum(cost), 0.0) "
            "FROM answers WHERE run_id = ?",
            (run_id,),
        ).fetchone()
        failed_tokens, failed_cost = self._db.execute(
            "SELECT coalesce(sum(tokens), 0), coalesce(sum(cost), 0.0) FROM failures WHERE run_id = ?", (run_id,)
        ).fetchone()
        return Spent(tokens, cost, failed_tokens, failed_cost)


def forget(path: Path, subjects: Iterable[str]) -> int:
    """Remove the answers of these request or tool ids, their bytes too; how many there were. Safe to repeat.

    Waits for a run that is asking. A file that is not there has nothing to forget.
    """
    if not path.exists():
        return 0
    with path.with_name(path.name + ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with closing(_open(path)) as db:
                gone = 0
                with db:
                    for subject in subjects:
                        keys = [key for (key,) in db.execute("SELECT key FROM subjects WHERE subject = ?", (subject,))]
                        for key in keys:
                            gone += db.execute("DELETE FROM answers WHERE key = ?", (key,)).rowcount
                            db.execute("DELETE FROM subjects WHERE key = ?", (key,))
                return gone
        except sqlite3.Error as error:
            raise _unusable(path, error) from error


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    try:
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _unusable(path: Path, error: Exception) -> SetupError:
    return SetupError(f"The answers in {path} can't be used ({error}): check the disk, or move the file away.")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
