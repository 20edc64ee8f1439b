"""Keeps tables small and quick to open: merges small files, removes what no version needs, shortens the log.

Reads and writes below `lake_dir`. Invariants: no row changes; a file goes only once it has been out of the table for
`vacuum_hours` and no kept version names it (`lake/lineage.py` says which a dataset needs); versions from before an
erasure are never kept, since they hold what was erased, and are named as gone. Safe beside readers, ingesters and
other maintenance: a lost race is counted and left to the next run. Safe to kill anywhere and to repeat.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from lake.errors import IngestError, says
from lake.evolution import HOOKS
from lake.location import LakeDir, Location
from lake.retention import RetentionSettings
from lake.storage import make_durable, paths, sizes
from lake.table_log import last_rewrite, needs_checkpoint, old_files, remove
from lake.tables import WRITER, existing_table

_MB = 1_000_000


@dataclass(slots=True)
class TableMaintenance:
    """What was done to one table (or would be, in a dry run), what was kept and why, and what is gone."""

    version: int = 0
    files_before: int = 0
    files_after: int = 0
    merged_files: int = 0
    merged_days: int = 0
    removed_files: int = 0
    removed_bytes: int = 0
    log_files: int = 0
    log_bytes: int = 0
    checkpoint: bool = False
    kept: Counter[str] = field(default_factory=Counter[str])  # few_files, for_readers, for_datasets, lost_race
    kept_versions: dict[int, list[str]] = field(default_factory=dict[int, list[str]])  # the datasets that need each
    gone_versions: dict[int, str] = field(default_factory=dict[int, str])  # named by a dataset: why unreadable

    @property
    def bytes_freed(self) -> int:
        return self.removed_bytes + self.log_bytes

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "kept": dict(self.kept), "bytes_freed": self.bytes_freed}


def maintain_table(
    lake_dir: LakeDir,
    name: str,
    retention: RetentionSettings,
    named: Mapping[int, list[str]],
    now: datetime,
    *,
    dry_run: bool = False,
) -> TableMaintenance | None:
    """Merge, remove, checkpoint, shorten; None where there is no such table. `named`: versions datasets need.

    Raises `SetupError` where the table can't be read, `IngestError` where a step fails for good.
    """
    table = existing_table(lake_dir, name)
    if table is None:
        return None
    location = lake_dir / name
    report = TableMaintenance(files_before=len(table.file_uris()))
    try:
        _merge(table, location, retention, report, dry_run)
        there = sizes(location)
        _sort_versions(lake_dir, name, table, named, there, report)
        _vacuum(table, there, retention.vacuum_hours, report, dry_run)
        version = table.version()
        if not dry_run and needs_checkpoint(location, version):
            table.create_checkpoint()
            make_durable(location, version)
            report.checkpoint = True
        old = old_files(location, version, retention.log_days, report.kept_versions, now)
        if not dry_run:
            remove(location, old)
    except (DeltaError, OSError) as error:
        raise IngestError(
            f"The table {name} can't be maintained ({says(error)}): check the disk or the S3 "
            "server, then run it again; nothing that is needed was removed.",
            table=name,
        ) from error
    report.version, report.files_after = version, len(table.file_uris())
    report.log_files, report.log_bytes = len(old), sum(one.bytes for one in old)
    return report


def _merge(
    table: DeltaTable, location: Location, retention: RetentionSettings, report: TableMaintenance, dry_run: bool
) -> None:
    """One commit a day that has many small files."""
    limit = retention.compact_mb * _MB
    files = pl.DataFrame(table.get_add_actions(flatten=True))
    if files.is_empty():
        return
    small = files.filter(pl.col("size_bytes") < limit).group_by("partition.date").len().sort("partition.date")
    for day, count in small.iter_rows():
        if count < retention.compact_files:
            report.kept["few_files"] += count
            continue
        if not dry_run:
            try:
                done = table.optimize.compact(
                    partition_filters=[("date", "=", day)],
                    target_size=limit,
                    max_concurrent_tasks=1,
                    writer_properties=WRITER,
                    post_commithook_properties=HOOKS,
                )
            except CommitFailedError:  # an erasure changed the same files
                report.kept["lost_race"] += count
                table.update_incremental()
                continue
            if not done["numFilesRemoved"]:
                continue
            make_durable(location, table.version())
            count = done["numFilesRemoved"]
        report.merged_days += 1
        report.merged_files += count


def _sort_versions(
    lake_dir: LakeDir,
    name: str,
    table: DeltaTable,
    named: Mapping[int, list[str]],
    there: Mapping[str, int],
    report: TableMaintenance,
) -> None:
    """Which of the versions that datasets name can be kept, and why the others can't."""
    if not named:
        return
    erased_at = last_rewrite(table)
    for version, datasets in sorted(named.items()):
        if version < erased_at:
            report.gone_versions[version] = "an erasure took rows away since"
        elif version > table.version():
            report.gone_versions[version] = "the table never had it"
        elif not _is_readable(lake_dir, name, version, there):
            report.gone_versions[version] = "its files or its log are gone"
        else:
            report.kept_versions[version] = datasets


def _is_readable(lake_dir: LakeDir, name: str, version: int, there: Mapping[str, int]) -> bool:
    try:
        table = existing_table(lake_dir, name, version)
    except Exception:  # whatever delta-rs says of a log that lacks commits
        return False
    return table is not None and set(paths(table)) <= there.keys()


def _vacuum(table: DeltaTable, there: Mapping[str, int], hours: int, report: TableMaintenance, dry_run: bool) -> None:
    """Files that neither the table nor a kept version has, killed writers' ones among them."""
    keep = sorted(report.kept_versions)
    options: dict[str, Any] = {"enforce_retention_duration": False, "full": True}

    def unneeded(after_hours: int, versions: list[int]) -> set[str]:
        listed = table.vacuum(after_hours, dry_run=True, keep_versions=versions or None, **options)
        return set(listed) & there.keys()  # delta-rs lists files again that are gone

    gone = unneeded(hours, keep)
    report.kept["for_readers"] += len(unneeded(0, keep) - gone)
    report.kept["for_datasets"] += len(unneeded(hours, []) - gone) if keep else 0
    report.kept += Counter()
    report.removed_files, report.removed_bytes = len(gone), sum(there[path] for path in gone)
    if gone and not dry_run:
        table.vacuum(hours, dry_run=False, keep_versions=keep or None, post_commithook_properties=HOOKS, **options)
