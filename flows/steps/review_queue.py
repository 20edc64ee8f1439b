"""Review queue step: the most valuable questions without a golden answer → a file that people can answer.

Reads the lake, the catalogue and the test set of the settings; writes the file, for Label Studio its labelling
configuration beside it, and offers the whole queue to the reviewers of the pages (`lake/review_leases.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.steps.parts import open_catalog, read_cases
from flows.steps.stage import StageContext
from lake import house_style
from lake.errors import SetupError
from lake.files import write_bytes_atomic, write_text_atomic
from lake.review_formats import LABEL_STUDIO_CONFIG, context_text, dump
from lake.review_leases import ReviewLeases, offers
from lake.review_queue import Queue, open_items, with_context
from lake.rules.ground import comparable_name
from lake.rules.stale import Catalog


def read_queue(stage: StageContext, reviewers: int = 1) -> Queue:
    """The queue for the catalogue and the test set of the settings."""
    return open_items(
        stage.lake.lake_dir,
        catalog=Catalog.of(open_catalog(stage).tools),
        tests=read_cases(stage.flows.test_set),
        reviewers=reviewers,
    )


def export_rows(lake_dir: Any, queue: Queue) -> Iterator[dict[str, Any]]:
    """Items with context, and a suggestion to start from: the answer that went stale, else the model's own."""
    for row in with_context(lake_dir, queue.items).iter_rows(named=True):
        retrieved = row.pop("retrieved_items") or []
        model_answer = row.pop("suggestion")
        suggestion = row.pop("stale_answer") or model_answer
        yield {
            **row,
            "context": context_text(retrieved),
            "retrieved_items": retrieved,
            "suggestion": suggestion,
            "suggested_tools": _named(suggestion, retrieved),
            "model_answer": model_answer,
            "model": row.pop("suggestion_model"),
            "adapter": row.pop("suggestion_adapter"),
        }


def _named(answer: str | None, retrieved: list[Mapping[str, Any]]) -> list[str]:
    """Ids of the retrieved tools that an answer in house style names."""
    parsed = house_style.parse(answer or "")
    if parsed is None or parsed.name is None:
        return []
    name = comparable_name(parsed.name)
    return [item["id"] for item in retrieved if comparable_name(item["name"] or "") == name]


def run_export(stage: StageContext, form: str, out: str, limit: int | None, reviewers: int) -> dict[str, Any]:
    """Write the best `limit` items (default: all). Raises `InputError` for an unknown format, `SetupError` for a file
    that can't be written.
    """
    dump(form, ())  # an unknown format is said before the lake is read
    queue = read_queue(stage, reviewers=reviewers)
    offered = ReviewLeases(stage.lake.review_leases).offer(offers(queue.items.to_dicts(), reviewers))
    best = Queue(queue.items if limit is None else queue.items.head(limit), queue.counts)
    rows = list(export_rows(stage.lake.lake_dir, best))
    path = Path(out)
    try:
        write_bytes_atomic(path, dump(form, rows))
        if form == "label-studio":
            write_text_atomic(path.with_suffix(".config.xml"), LABEL_STUDIO_CONFIG)
    except OSError as error:
        raise SetupError(f"{path} can't be written ({error.strerror}): check the path.") from error
    reasons = Counter(reason for row in rows for reason in row["reasons"])
    return {
        "file": str(path), "format": form, "exported": len(rows), "queue": queue.counts, "offered": offered,
        "reasons": dict(sorted(reasons.items())),
    }  # fmt: skip
