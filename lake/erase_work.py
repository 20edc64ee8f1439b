"""What an erasure still has to do: a work file until the bytes are proven gone, and a row a state in `erasures`.

Reads and writes `data/erasures/<erasure id>.json` (mode 0600: it names the ids and texts that are looked for, and goes
when they are proven gone) and the table `erasures` (hashes and places, kept for ever). Invariant: the work file is on
disk before anything is touched, and every state is recorded once.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import orjson
import pyarrow.compute as pc

from lake.erase_plan import Kind, Subject
from lake.erased_ids import id_hash
from lake.files import canonical_json, read_json, write_bytes_atomic
from lake.location import LakeDir
from lake.tables import append, existing_table

State = Literal["planned", "hidden", "removed", "proven"]
_ORDER = ("hidden", "removed", "proven")
_MARGIN = timedelta(days=1)  # before the window ends, so that a daily run keeps it


@dataclass(frozen=True, slots=True)
class Work:
    """One erasure. Times are UTC, ISO 8601."""

    erasure_id: str
    kind: Kind
    subject_sha256: str
    begun: str
    window_days: float
    state: State = "planned"
    request_ids: list[str] = field(default_factory=list[str])
    ids: list[str] = field(default_factory=list[str])
    texts: list[str] = field(default_factory=list[str])
    questions: list[str] = field(default_factory=list[str])
    datasets: list[str] = field(default_factory=list[str])  # withdrawn by it
    adapters: list[str] = field(default_factory=list[str])  # quarantined by it
    reach: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def subject(self) -> Subject:
        return Subject(self.kind, set(self.request_ids), set(self.ids), set(self.texts), set(self.questions))

    @property
    def due(self) -> datetime:
        """When the bytes should go: a day before the window ends, or halfway through a short one."""
        window = timedelta(days=self.window_days)
        return datetime.fromisoformat(self.begun) + max(window - _MARGIN, window / 2)

    def with_subject(self, subject: Subject) -> Work:
        """The same work, for what was found since too."""
        return replace(
            self,
            request_ids=sorted({*self.request_ids, *subject.request_ids}),
            ids=sorted({*self.ids, *subject.ids}),
            texts=sorted({*self.texts, *subject.texts}),
            questions=sorted({*self.questions, *subject.questions}),
        )


def save(folder: Path, work: Work) -> None:
    """Durable on return."""
    write_bytes_atomic(folder / f"{work.erasure_id}.json", canonical_json(asdict(work)), 0o600)


def drop(folder: Path, work: Work) -> None:
    """Remove the work file of a proven erasure. Safe to repeat."""
    (folder / f"{work.erasure_id}.json").unlink(missing_ok=True)


def open_works(folder: Path) -> list[Work]:
    """Erasures that are not proven yet, oldest first."""
    return [Work(**read_json(path)) for path in sorted(folder.glob("*.json"))]


def record(lake_dir: LakeDir, work: Work, state: State, report: dict[str, Any], now: datetime) -> bool:
    """Append the state to `erasures`; False where it stands there. A hidden one that found more ids is recorded again.

    Raises `IngestError` where the table can't be written. Safe to retry.
    """
    hashes = sorted(map(id_hash, work.ids)) if state == "hidden" else []
    for row in states(lake_dir, "erasure_id", work.erasure_id):
        if row["state"] == state and set(hashes) <= set(row["ids_sha256"] or []):
            return False
    append(
        lake_dir,
        "erasures",
        [
            {
                "timestamp": now.astimezone(UTC),
                "erasure_id": work.erasure_id,
                "kind": work.kind,
                "subject_sha256": work.subject_sha256,
                "ids_sha256": hashes or None,
                "state": state,
                "window_days": work.window_days,
                "report": orjson.dumps(report).decode(),
            }
        ],
    )
    return True


def states(lake_dir: LakeDir, column: str, value: str) -> list[dict[str, Any]]:
    """Recorded states where `column` (erasure_id or subject_sha256) is `value`, oldest first."""
    table = existing_table(lake_dir, "erasures")
    if table is None:
        return []
    dataset: Any = table.to_pyarrow_dataset()
    rows: list[dict[str, Any]] = dataset.to_table(filter=pc.field(column) == value).to_pylist()
    return sorted(rows, key=lambda row: (row["timestamp"], _ORDER.index(row["state"])))
