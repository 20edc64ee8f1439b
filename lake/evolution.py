"""How a table comes to be and follows its schema: created, widened by nullable columns, mended after a power cut.

Writes `<lake>/<table>/_delta_log`. Invariants: a table of the last version becomes one of this version without
touching its rows; a table of a later version, or with other columns, is refused before anything is written; a
checkpoint is taken away only where the commits that it sums up are all there.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Field, PostCommitHookProperties, Schema

from lake.errors import SetupError
from lake.location import Location
from lake.schemas.tables import TABLES, schema_version, statistics_columns
from lake.storage import LOG, commit_name, delta_options

PARTITION_COLUMN = "date"
VERSION_PROPERTY = "mulle.schemaVersion"
# Checkpoints are left to delta-rs (every 100 commits); old commits are removed by maintenance alone, which knows
# which versions the datasets name.
HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)


def properties(name: str) -> dict[str, str]:
    """The table properties that this version sets."""
    return {
        VERSION_PROPERTY: str(schema_version(name)),
        "delta.dataSkippingStatsColumns": ",".join(statistics_columns(name)),
        "delta.enableExpiredLogCleanup": "false",
    }


def create(location: Location, name: str) -> None:
    """Version 0 of the table. Raises `CommitFailedError` where another process was first."""
    if isinstance(location, Path):
        location.mkdir(parents=True, exist_ok=True)
    DeltaTable.create(
        str(location),
        schema=Schema.from_arrow(TABLES[name]),
        mode="ignore",
        partition_by=[PARTITION_COLUMN],
        configuration=properties(name),
        raise_if_key_not_exists=False,
        storage_options=delta_options(location),
        # No retries: the loser of a race would commit a second table definition as version 1 (measured).
        commit_properties=CommitProperties(max_commit_retries=0),
        post_commithook_properties=HOOKS,
    )


def recorded_version(table: DeltaTable) -> int:
    """The schema version that the table says it has; 1 where it says none."""
    text = table.metadata().configuration.get(VERSION_PROPERTY) or ""
    return int(text) if text.isdigit() else 1


def widen(table: DeltaTable, name: str, location: Location) -> bool:
    """Add what the table lacks; True where something was written. Raises `SetupError` for any other difference."""
    schema = Schema.from_arrow(TABLES[name])
    want, have = pa.schema(schema.to_arrow()), pa.schema(table.schema().to_arrow())
    missing = [field for field in want if field.name not in have.names]
    wrong = [field.name for field in want if field.name in have.names and have.field(field.name).type != field.type]
    wrong += [field.name for field in missing if not field.nullable]
    wrong += [column for column in have.names if column not in want.names]
    version = recorded_version(table)
    if wrong or version > schema_version(name):
        raise SetupError(
            f"The table at {location} (schema version {version}) has other columns than this version writes "
            f"({', '.join(sorted(wrong)) or 'none yet'}; schema version {schema_version(name)}): use the version of "
            "Mulle that wrote it, or move the folder away.",
            columns=wrong,
        )
    if missing:
        fields = {field.name: field for field in schema.fields}
        table.alter.add_columns([cast("Field", fields[field.name]) for field in missing])
    held = table.metadata().configuration
    changed = {key: value for key, value in properties(name).items() if held.get(key) != value}
    if changed:
        table.alter.set_table_properties(changed, raise_if_not_exists=False)
    return bool(missing or changed)


def mend(location: Location) -> list[str]:
    """Put aside checkpoints that can't be read (a power cut may leave one empty); their names.

    The table is then read from its commits. Leaves a checkpoint alone whose commits are not all there, and
    whatever lies on S3.
    """
    if not isinstance(location, Path):
        return []
    aside: list[str] = []
    for path in sorted((location / LOG).glob("*.checkpoint*.parquet")):
        try:
            pq.read_metadata(path)
        except (OSError, pa.ArrowException):
            version = int(path.name.split(".", 1)[0])
            if all((location / commit_name(at)).is_file() for at in range(version + 1)):
                path.rename(path.with_name(f".{path.name}.broken"))
                (location / LOG / "_last_checkpoint").unlink(missing_ok=True)
                aside.append(path.name)
    return aside
