"""Bring other people's logs in: JSONL or Parquet with a field mapping, LiteLLM's and OpenAI-style ones by name.

Reads a file or a folder, and a mapping (`litellm`, `openai`, or a TOML file like those in `configs/imports/`); writes a
worker directory of the journal, from where `flows.ingest` takes the records, and what can't be mapped into
`data/quarantine/imports/`. Importing the same records twice gives no new rows.

    prefect deployment run 'import-logs/local' -p file=logs.jsonl -p mapping=litellm
    python -m flows.import_logs logs.jsonl --mapping litellm && python -m flows.ingest
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.import_logs import run_import


@flow(name="import-logs")
def import_logs(
    file: str, mapping: str = "openai", default_time: str | None = None, run_id: str | None = None
) -> dict[str, Any]:
    """Journal every record of FILE (or of the logs below a folder) that is new; `default_time` for those without."""
    return run_stage("import-logs", run_id, lambda stage: run_import(stage, file, mapping, default_time))


if __name__ == "__main__":
    main(import_logs)
