"""Keep the lake small and quick: merge small files, remove what nothing needs, shorten logs and journal.

Reads and writes the tables, `data/journal/` and `data/private-journal/`; how long things are kept is in the settings
(`MULLE_COMPACT_FILES` to `MULLE_JOURNAL_DAYS`). Safe beside the gateway, ingest and readers; `--dry-run` only says.

    prefect deployment run 'maintain/local'
    python -m flows.maintain --dry-run
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.maintain import run_maintain
from lake.retention import RetentionSettings


@flow(name="maintain")
def maintain_lake(dry_run: bool = False, run_id: str | None = None) -> dict[str, Any]:
    """Merge, remove and shorten; the report says what was freed and what was kept and why."""
    return run_stage("maintain", run_id, lambda stage: run_maintain(stage, RetentionSettings(), dry_run))


if __name__ == "__main__":
    main(maintain_lake)
