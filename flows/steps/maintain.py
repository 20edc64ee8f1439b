"""Maintain step: tables merged and cleaned, the journal's ingested segments and old private records removed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flows.steps.stage import StageContext
from lake.errors import MulleError, SetupError
from lake.journal.private import sweep
from lake.journal_retention import remove_ingested
from lake.lineage import datasets_built, versions_to_keep
from lake.maintenance import maintain_table
from lake.retention import RetentionSettings
from lake.schemas.tables import TABLES


def run_maintain(stage: StageContext, retention: RetentionSettings, dry_run: bool = False) -> dict[str, Any]:
    """Do all of it, or with `dry_run` say what it would do. Safe to retry and beside everything else.

    A table that can't be maintained does not keep the others from it. Raises `SetupError` at the end where there
    was one, with the report of the rest in its detail.
    """
    now, lake = datetime.now(UTC), stage.lake
    built = datasets_built(lake.lake_dir, lake.datasets_dir)
    tables: dict[str, Any] = {}
    failed: dict[str, str] = {}
    progress = stage.progress(len(TABLES) + 2)
    for name in TABLES:
        try:
            named = versions_to_keep(built, name, retention.dataset_days, now)
            done = maintain_table(lake.lake_dir, name, retention, named, now, dry_run=dry_run)
            if done is not None:
                tables[name] = done.to_dict()
        except MulleError as error:
            failed[name] = str(error)
        progress.advance()
    quarantine = lake.data_dir / "quarantine"
    journal = remove_ingested(lake.journal_dir, lake.lake_dir, quarantine, retention.journal_days, now, dry_run=dry_run)
    progress.advance()
    swept = 0 if dry_run else sweep(lake.private_journal_dir, lake.opt_out_days, now)
    progress.advance()
    report: dict[str, Any] = {
        "dry_run": dry_run,
        "bytes_freed": journal.bytes + sum(one["bytes_freed"] for one in tables.values()),
        "merged_files": sum(one["merged_files"] for one in tables.values()),
        "removed_files": sum(one["removed_files"] for one in tables.values()),
        "journal_segments": journal.segments,
        "private_folders_removed": swept,
        "tables": tables,
        "journal": journal.to_dict(),
        "retention": retention.model_dump(),
    }
    for name, done in tables.items():
        for version, why in done["gone_versions"].items():
            stage.log(f"{name} at version {version}, which a dataset names, can't be read any more: {why}")
    stage.log(f"freed {report['bytes_freed']} bytes; merged {report['merged_files']} files; kept: {_kept(tables)}")
    if failed:
        raise SetupError(
            f"{len(failed)} tables could not be maintained ({'; '.join(failed.values())[:400]}).",
            report=report,
            failed=failed,
        )
    return report


def _kept(tables: dict[str, Any]) -> dict[str, dict[str, int]]:
    return {name: one["kept"] for name, one in tables.items() if one["kept"]}
