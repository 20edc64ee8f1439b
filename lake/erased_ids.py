"""Which ids were erased: nothing of them may come back, from a journal that is replayed or from one not yet ingested.

Reads the table `erasures`, which holds sha256 of ids, never ids. Invariant: an erasure is recorded before anything
is removed; whoever decides on a snapshot of another table reads this after it (an erasure commits to those tables
after it was recorded, so a decision that missed it conflicts).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from lake.location import LakeDir
from lake.tables import existing_table

# Fields by which a record names another one; a record that names an erased one is erased with it.
NAMING_FIELDS = ("request_id", "original_request_id")


def id_hash(one: str) -> str:
    """Hex sha256 of an id, as `erasures` holds it."""
    return hashlib.sha256(one.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ErasedIds:
    """Hashes of everything that was erased; false where that is nothing, so that the common case costs nothing."""

    hashes: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def holds(self, one: str | None) -> bool:
        """Whether this id was erased."""
        return bool(self.hashes) and one is not None and id_hash(one) in self.hashes

    def names(self, record: Mapping[str, Any]) -> bool:
        """Whether a record (feedback, review, label) names a request that was erased."""
        return any(isinstance(one := record.get(name), str) and self.holds(one) for name in NAMING_FIELDS)

    def among(self, ids: Iterable[str]) -> set[str]:
        """Those of `ids` that were erased."""
        return {one for one in ids if self.holds(one)}


def erased_ids(lake_dir: LakeDir) -> ErasedIds:
    """What was erased so far. Raises `SetupError` where the table can't be read: then nobody may go on."""
    table = existing_table(lake_dir, "erasures")
    if table is None:
        return ErasedIds()
    hidden: Any = table.to_pyarrow_dataset().to_table(columns=["ids_sha256"], filter=pc.field("ids_sha256").is_valid())
    return ErasedIds(frozenset(one for ids in hidden.column("ids_sha256").to_pylist() for one in ids))
