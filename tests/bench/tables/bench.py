"""What maintenance is worth: a table of many small commits, before and after, and what it costs.

    make bench NAME=tables
    .venv/bin/python tests/bench/run.py tables --rounds 3 -- --commits 400 --rows 250

The same rows lie in two tables: one as ingest left it, one maintained. Each round opens both, reads all of each with
polars, and looks one request up, in turns.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from ulid import ULID

from lake.maintenance import maintain_table
from lake.retention import RetentionSettings
from lake.schemas.tables import TABLES
from lake.storage import sizes
from lake.tables import append, existing, open_table, scan
from tests.bench.run import Figure, interleaved

START = datetime(2026, 1, 1, tzinfo=UTC)
ITEM = {
    "rank": 1, "score": 0.9, "id": "jira", "name": "Jira", "url": "https://jira.example",
    "description": "이슈와 프로젝트를 관리하는 도구입니다. " * 4, "chunk_text": "이슈 추적", "tags": ["pm"],
    "category": "dev", "scores": {"dense": 0.9, "lexical": 0.4, "rerank": 0.7},
}  # fmt: skip


def rows(commit: int, count: int) -> list[dict[str, Any]]:
    """Requests of one commit, a few minutes of one day."""
    made: list[dict[str, Any]] = []
    for n in range(count):
        time_ = START + timedelta(minutes=3 * commit, seconds=n / 10)
        made.append(
            {
                "request_id": str(ULID.from_datetime(time_)),
                "timestamp": time_,
                "user_query": f"이슈 {commit}-{n} 추적에 좋은 도구가 뭐가 있나요?",
                "lang": "ko",
                "retrieved_items": [ITEM] * 5,
                "llm_response_content": f"추천: Jira {commit}-{n}. " * 6,
                "outcome": "answered",
                "backend": "vllm",
                "segment": "w/00000001.mjl",
                "seq": commit * count + n,
                "record_version": 3,
            }
        )
    return made


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def figures(rounds: int, arguments: Sequence[str]) -> list[Figure]:
    parser = argparse.ArgumentParser(prog="tables")
    parser.add_argument("--commits", type=int, default=400)
    parser.add_argument("--rows", type=int, default=250)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="mulle-bench-tables-"))
    try:
        return measure(folder, rounds, options.commits, options.rows)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, rounds: int, commits: int, count: int) -> list[Figure]:
    """Fill, copy, maintain the copy, compare."""
    left, kept = folder / "left", folder / "kept"
    empty: pa.Table = TABLES["requests"].empty_table()
    append(left, "requests", empty)
    ids: set[str] = set()
    for commit in range(commits):
        made = rows(commit, count)
        append(left, "requests", made)
        ids = {made[0]["request_id"]}
    shutil.copytree(left, kept)
    retention = RetentionSettings().model_copy(update={"vacuum_hours": 0})
    later = datetime.now(UTC) + timedelta(days=60)
    cost = seconds(lambda: maintain_table(kept, "requests", retention, {}, later))
    opened = interleaved(
        {name: lambda at=at: seconds(lambda: open_table(at, "requests")) for name, at in two(left, kept)}, rounds
    )
    read = interleaved(
        {
            name: lambda at=at: seconds(lambda: scan(at, "requests").select("user_query", "outcome").collect())
            for name, at in two(left, kept)
        },
        rounds,
    )
    found = interleaved(
        {
            name: lambda at=at: seconds(lambda: existing(open_table(at, "requests"), "request_id", ids))
            for name, at in two(left, kept)
        },
        rounds,
    )
    assert (
        scan(left, "requests").select("seq").collect().height == scan(kept, "requests").select("seq").collect().height
    )
    before, after = sizes(left / "requests"), sizes(kept / "requests")
    return [
        Figure("rows", "rows", [float(commits * count)]),
        Figure("files_before", "files", [float(len(before))]),
        Figure("files_after", "files", [float(len(after))]),
        Figure("bytes_before", "MB", [sum(before.values()) / 1e6]),
        Figure("bytes_after", "MB", [sum(after.values()) / 1e6]),
        Figure("maintain_s", "s", [cost]),
        *(Figure(f"open_{name}_ms", "ms", [1e3 * one for one in opened[name]]) for name in opened),
        *(Figure(f"scan_two_columns_{name}_ms", "ms", [1e3 * one for one in read[name]]) for name in read),
        *(Figure(f"find_one_id_{name}_ms", "ms", [1e3 * one for one in found[name]]) for name in found),
    ]


def two(left: Path, kept: Path) -> list[tuple[str, Path]]:
    return [("left", left), ("maintained", kept)]
