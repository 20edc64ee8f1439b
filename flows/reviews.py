"""Import reviewed ("golden") answers: they replace the model's own when a dataset is built.

Reads JSONL rows with `question` (or `request_id`) and `answer`; writes REVIEW records to the journal, so that
they take the same durable way into the lake as the requests. Importing a file twice changes nothing.

    prefect deployment run 'reviews/local' -p file=data/sample/reviews.jsonl
    python -m flows.reviews --file data/sample/reviews.jsonl
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.edge import main, run_stage
from flows.steps.reviews import run_reviews


@flow(name="reviews")
def import_reviews(file: str = "data/sample/reviews.jsonl", run_id: str | None = None) -> dict[str, Any]:
    """Journal every new review of `file`; bad rows are reported with their line number."""
    return run_stage("reviews", run_id, lambda stage: run_reviews(stage, file))


if __name__ == "__main__":
    main(import_reviews)
