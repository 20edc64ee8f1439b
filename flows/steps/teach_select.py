"""Which logged questions a teacher run asks about. Reads the lake; writes the run's plan, so that a run that goes on
after a kill asks the same ones although its own labels have changed the order meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl

from lake.errors import InputError
from lake.files import read_json, write_json_atomic
from lake.location import LakeDir
from lake.review_queue import open_items
from lake.rules.shingles import question_keys
from lake.rules.split import draw
from lake.schemas.rows import EvalCase
from lake.tables import scan

CHUNK_ROWS = 256
_COLUMNS = ("request_id", "user_query", "retrieved_items", "prompt_sha256", "stored")


@dataclass(frozen=True, slots=True)
class Plan:
    """Request ids in the order in which they are asked, and why the others are not."""

    request_ids: list[str]
    counts: dict[str, int]


def make_plan(
    path: Path, lake_dir: LakeDir, model: str, order: str, limit: int, seed: int, tests: Sequence[EvalCase]
) -> Plan:
    """The plan at `path`; made and kept there where there is none yet. Raises `InputError` where it is unreadable."""
    if path.exists():
        try:
            kept = read_json(path)
            return Plan(list(kept["request_ids"]), dict(kept["counts"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"The plan {path} can't be read ({error}): remove it, or take another run id.") from error
    plan = choose(lake_dir, model, order, limit, seed, tests)
    write_json_atomic(path, {"request_ids": plan.request_ids, "counts": plan.counts})
    return plan


def choose(lake_dir: LakeDir, model: str, order: str, limit: int, seed: int, tests: Sequence[EvalCase]) -> Plan:
    """Questions of the review queue that have a request, no correction, and no label by `model` yet.

    The queue has no golden ones, none near a test question, and one of each group of near-duplicates. `order`: value,
    traffic, or random (by a seeded hash).
    """
    queue = open_items(lake_dir, tests=tests)
    counts = Counter({f"queue_{name}": number for name, number in queue.counts.items()})
    labelled = scan(lake_dir, "teacher_labels").filter(pl.col("model") == model).select("question").collect()
    taught = set(question_keys(labelled["question"].to_list()))
    said = scan(lake_dir, "feedback").filter(pl.col("corrected_answer").fill_null("").str.strip_chars() != "")
    corrected = set(cast("list[str]", said.select("request_id").collect()["request_id"].to_list()))
    rows = queue.items.select("request_id", "key", "asked").rows()
    if order == "traffic":
        rows.sort(key=lambda row: -row[2])  # stable: equal ones by value
    elif order == "random":
        rows.sort(key=lambda row: draw(seed, row[1]))
    chosen: list[str] = []
    for request_id, key, _ in rows:
        if request_id is None:
            counts["no_request"] += 1
        elif key in taught:
            counts["labelled_before"] += 1
        elif request_id in corrected:
            counts["corrected"] += 1
        elif len(chosen) >= limit:
            counts["beyond_limit"] += 1
        else:
            chosen.append(request_id)
    return Plan(chosen, dict(counts))


def read_requests(lake_dir: LakeDir, request_ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The rows of `request_ids`, in their order, `CHUNK_ROWS` in memory at a time; None for one that is gone."""
    for start in range(0, len(request_ids), CHUNK_ROWS):
        wanted = list(request_ids[start : start + CHUNK_ROWS])
        found = scan(lake_dir, "requests").filter(pl.col("request_id").is_in(wanted)).select(_COLUMNS).collect()
        rows = {row["request_id"]: row for row in found.iter_rows(named=True)}
        for request_id in wanted:
            yield request_id, rows.get(request_id)
