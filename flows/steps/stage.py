"""A stage of a run: where it lies, how long it took, what it reported. Knows no Prefect.

Writes `data/runs/<run_id>/<stage>.json` and a row of the `runs` table; both say `failed` when the stage raised.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from ulid import ULID

from flows.settings import FlowSettings
from lake.files import write_json_atomic
from lake.progress import Progress
from lake.settings import LakeSettings
from lake.tables import append
from serving.settings import ServingSettings


@dataclass(frozen=True, slots=True)
class StageContext:
    """What every step is handed: ids, folders and settings, read once at the edge."""

    run_id: str
    name: str
    lake: LakeSettings
    serving: ServingSettings
    flows: FlowSettings
    log: Callable[[str], None] = print
    environ: Mapping[str, str] = field(default_factory=dict[str, str])  # for child processes

    @property
    def run_folder(self) -> Path:
        return self.lake.data_dir / "runs" / self.run_id

    @property
    def progress_file(self) -> Path:
        return self.lake.run_dir / "progress.jsonl"

    def progress(self, total: int | None = None) -> Progress:
        """Progress lines under the stage's own name."""
        return Progress(self.progress_file, self.name, total)


@dataclass(slots=True)
class StageRecord:
    """Filled in while the stage runs."""

    report: dict[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0


def new_run_id() -> str:
    """A ULID: sorts by time, safe as a folder name."""
    return str(ULID())


@contextmanager
def open_stage(context: StageContext) -> Iterator[StageRecord]:
    """Time the block and write its record, also when it raises (the error then passes through)."""
    record = StageRecord()
    started = datetime.now(UTC)
    clock = time.perf_counter()
    progress = context.progress()
    status = "failed"
    try:
        yield record
        status = "ok"
    except Exception as error:
        record.report = {"error": type(error).__name__, "message": str(error)}
        raise
    finally:
        record.seconds = time.perf_counter() - clock
        progress.finish(status)
        write_record(context, started, status, record)


def write_record(context: StageContext, started: datetime, status: str, record: StageRecord) -> None:
    """The JSON file for the report page and the row for the lake."""
    write_json_atomic(
        context.run_folder / f"{context.name}.json",
        {
            "run_id": context.run_id,
            "stage": context.name,
            "started": started.isoformat(),
            "seconds": round(record.seconds, 3),
            "status": status,
            "report": record.report,
        },
    )
    append(
        context.lake.lake_dir,
        "runs",
        [
            {
                "date": started.date().isoformat(),
                "timestamp": started,
                "run_id": context.run_id,
                "stage": context.name,
                "seconds": record.seconds,
                "status": status,
                "report": orjson.dumps(record.report).decode(),
            }
        ],
    )


def summary_markdown(name: str, run_id: str, seconds: float, report: dict[str, Any]) -> str:
    """Scalars and counts of a report as a Markdown table, for the Prefect artifact."""
    lines = [f"## {name} of run `{run_id}`", "", f"{seconds:.1f} s", "", "| what | value |", "| --- | --- |"]
    for key, value in report.items():
        if isinstance(value, dict) and value and all(isinstance(v, int | float | str) for v in value.values()):
            shown = ", ".join(f"{k}: {v}" for k, v in value.items())
        elif isinstance(value, int | float | str | bool) or value is None:
            shown = str(value)
        else:
            continue
        lines.append(f"| {key} | {shown.replace('|', '/')[:300]} |")
    return "\n".join(lines)
