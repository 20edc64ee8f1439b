"""Reviewed ("golden") answers: the queue of what is worth reviewing out, answers in, agreement of the reviewers.

`import` reads a file and writes REVIEW records to the journal, so that they take the same durable way into the lake as
the requests; importing a file twice changes nothing. `export` reads the lake and writes the best items of the review
queue, with what was retrieved and the model's answer as a suggestion. `agreement` reads the table reviews. Formats:
jsonl, csv, argilla, label-studio (docs/datasets.md).

    prefect deployment run 'reviews/local' -p file=data/sample/reviews.jsonl
    python -m flows.reviews export --format csv --out review.csv --limit 100
    python -m flows.reviews import review.csv --format csv
    python -m flows.reviews agreement --out agreement.json
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.agreement import run_agreement
from flows.steps.review_queue import run_export
from flows.steps.reviews import run_reviews


@flow(name="reviews")
def import_reviews(
    file: str = "data/sample/reviews.jsonl", format: str = "jsonl", run_id: str | None = None
) -> dict[str, Any]:
    """Journal every new review of `file`; bad rows are reported with their line number. (Other commands: import FILE,
    export, agreement.)
    """
    return run_stage("reviews", run_id, lambda stage: run_reviews(stage, file, format))


@flow(name="review-queue")
def export_queue(
    format: str = "jsonl",
    out: str = "data/review-queue.jsonl",
    limit: int | None = None,
    reviewers: int = 1,
    run_id: str | None = None,
) -> dict[str, Any]:
    """Write the most valuable `limit` questions to `out`; a question stays in the queue until `reviewers` people agree
    on it.
    """
    return run_stage("review-queue", run_id, lambda stage: run_export(stage, format, out, limit, reviewers))


@flow(name="review-agreement")
def measure_agreement(out: str | None = None, run_id: str | None = None) -> dict[str, Any]:
    """How far reviewers agree on tools and words; the figures go to `out` as JSON."""
    return run_stage("review-agreement", run_id, lambda stage: run_agreement(stage, out))


if __name__ == "__main__":
    main(import_reviews, **{"import": import_reviews, "export": export_queue, "agreement": measure_agreement})
