"""What the tables remember of the journal: Delta transaction versions, committed together with the rows.

Reads the log of a table; writes nothing. Per table and segment: the byte offset up to which it is taken, how many
frames that were, and how many of them were dropped for which reason. `requests` also remembers per worker which
second halves behind its mark are taken. Invariant: these numbers are the ones of exactly one version of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson
from deltalake import DeltaTable

from lake.errors import SetupError, says
from lake.journal.blocks import Progress, WorkerScan
from lake.location import LakeDir
from lake.schemas.records import FrameKind
from lake.storage import actions, transactions
from lake.tables import open_table

TABLE_KINDS = {"requests": FrameKind.REQUEST, "reviews": FrameKind.REVIEW, "feedback": FrameKind.FEEDBACK}
REPEAT = "duplicate_response"  # a second half of a request that has one
DROP_REASONS = ("duplicate_id", REPEAT, "erased")
AHEAD_KEY = "mulleAhead"  # in the metadata of a commit: second halves taken from behind the mark


def marker_id(segment: str) -> str:
    """Delta application id whose version is the committed byte offset of a segment, in each table."""
    return f"journal:{segment}"


def frames_id(segment: str) -> str:
    """Delta application id whose version counts the frames of a segment that the table has accounted for."""
    return f"journal-frames:{segment}"


def dropped_id(reason: str, segment: str) -> str:
    """Delta application id whose version counts the frames of a segment dropped for `reason`."""
    return f"journal-dropped:{reason}:{segment}"


def ahead_id(worker: str) -> str:
    """Delta application id whose version is that of the commit which names what is taken ahead; 0: nothing is."""
    return f"journal-ahead:{worker}"


@dataclass(slots=True)
class Marks:
    """One snapshot of a table and its transaction versions, kept in step with our own commits."""

    lake_dir: LakeDir
    name: str
    table: DeltaTable = field(init=False)
    versions: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.reload()

    def reload(self) -> None:
        """The newest snapshot. Raises `SetupError` where the table or its log can't be read."""
        self.table = open_table(self.lake_dir, self.name)
        try:
            self.versions = transactions(self.lake_dir / self.name, self.table.version())
        except (OSError, ValueError) as error:
            raise SetupError(
                f"The log of the table {self.lake_dir / self.name} can't be read ({says(error)}): check the disk; "
                "restore the table's _delta_log from a copy if it is damaged."
            ) from error

    def offset(self, segment: str) -> int:
        return self.versions.get(marker_id(segment), 0)

    def frames(self, segment: str) -> int | None:
        """None where no version that counts has taken anything of the segment."""
        return self.versions.get(frames_id(segment))

    def dropped(self, reason: str, segment: str) -> int:
        return self.versions.get(dropped_id(reason, segment), 0)

    def ahead(self, worker: str) -> frozenset[tuple[str, int]] | None:
        """Second halves that are taken although they lie behind the mark; None where that can't be read any more."""
        version = self.versions.get(ahead_id(worker), 0)
        if not version:
            return frozenset()
        try:
            for info in actions(self.lake_dir / self.name, version, "commitInfo"):
                held = orjson.loads(info[AHEAD_KEY])
                return frozenset((f"{worker}/{segment}", offset) for segment, offset in held)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return None


def progress_of(marks: Mapping[str, Marks], scan: WorkerScan) -> Progress:
    """What the tables say of the segments that a worker has on disk."""
    names = [segment.name for segment in scan.segments]
    ahead = marks["requests"].ahead(scan.directory.name)
    uncounted = any(held.offset(name) and held.frames(name) is None for held in marks.values() for name in names)
    return Progress(
        marks={name: marks["requests"].offset(name) for name in names},
        others={
            kind: {name: marks[table].offset(name) for name in names}
            for table, kind in TABLE_KINDS.items()
            if kind != FrameKind.REQUEST
        },
        ahead=ahead or frozenset(),
        adopt=ahead is None or uncounted,
    )
