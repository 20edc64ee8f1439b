"""The review queue: questions worth a person's time, the most valuable first, read off the lake each time.

Reads the tables requests, feedback, teacher_labels, reviews and synthetic; writes nothing: who works on what stands in
`lake/review_leases.py`. A question is in the queue while it has no golden answer: that is, no review, fewer reviewers
than wanted, reviewers in conflict, or answers that are stale (`lake/rules/stale.py`); golden, synthetic and test rows
that went stale come back with the reason. Requests whose callers opted out are never in it. The formula of the value
is in `lake/rules/review_value.py`. Same tables, same queue, byte for byte.

Memory: the requests are read as a stream, of which some 200 bytes a request are kept; the texts of retrieved tools are
read again for those items alone that are handed out (`with_context`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from lake.location import LakeDir
from lake.rules.golden import golden_of
from lake.rules.review_value import REQUEST_COLUMNS, by_question, keyed, one_of_near, request_features, valued
from lake.rules.shingles import question_key
from lake.rules.stale import Catalog, stale_rows
from lake.schemas.rows import EvalCase
from lake.tables import scan
from lake.text import detect_lang

NEAR = 0.7  # Jaccard similarity of shingles: a typo, a particle, a word more; other needs are far below
POOL = 1_000_000  # the best questions, among which near-duplicates are sought
COLUMNS = {
    "item_id": pl.String,
    "key": pl.String,  # `question_key`
    "question": pl.String,
    "lang": pl.String,
    "request_id": pl.String,  # the newest request with this question, an answered one if there is any; else null
    "asked": pl.UInt32,
    "near": pl.UInt32,  # other questions that wait behind this one
    "value": pl.Float64,
    "disagreement": pl.Float64,
    "traffic": pl.Float64,
    "uncertainty": pl.Float64,
    "reasons": pl.List(pl.String),
    "up": pl.UInt32,
    "down": pl.UInt32,
    "answers": pl.UInt32,
    "reviewers": pl.List(pl.String),  # who reviewed it already
    "stale_answer": pl.String,  # the golden, synthetic or test answer that does not fit the catalogue any more
}
_REVIEWED = {
    "key": pl.String,
    "reviewed_question": pl.String,
    "golden_answer": pl.String,
    "golden_stale": pl.String,
    "conflict": pl.Boolean,
    "second_opinion": pl.Boolean,
    "settled": pl.Boolean,
    "reviewers": pl.List(pl.String),
}
_STALE: dict[str, Any] = dict.fromkeys(("key", "stale_question", "made_answer", "made_stale"), pl.String)


@dataclass(frozen=True)
class Queue:
    """`items` has `COLUMNS`, best first; `counts` says what became of every question that is not in it."""

    items: pl.DataFrame
    counts: dict[str, int] = field(default_factory=dict[str, int])


def item_id(question: str) -> str:
    """`q-` and 24 hex digits; the same for every spelling that `question_key` folds."""
    return f"q-{question_key(question)[:24]}"


def open_items(
    lake_dir: LakeDir,
    *,
    catalog: Catalog | None = None,
    tests: Sequence[EvalCase] = (),
    limit: int | None = None,
    reviewers: int = 1,
    pool: int = POOL,
    near: float = NEAR,
) -> Queue:
    """The queue as the tables stand now. Blocks: reads all requests (1,000,000 in half a minute). Safe to retry.

    `catalog`: today's tools; without it nothing counts as stale. `tests`: the held-out questions, of which only stale
    ones are items: what is near the others could not enter a dataset. `reviewers`: how many people shall review each
    question.
    """
    features = request_features(scan(lake_dir, "requests").select(REQUEST_COLUMNS)).collect(engine="streaming")
    feedback = scan(lake_dir, "feedback").select("request_id", "thumb", "score", "corrected_answer").collect()
    taught = scan(lake_dir, "teacher_labels").sort("timestamp", "label_id").select("request_id", "answer").collect()
    reviewed = _reviewed(lake_dir, catalog, reviewers)
    stale = _stale(lake_dir, catalog, tests)
    questions = (
        by_question(keyed(features), feedback, taught)
        .join(stale, on="key", how="full", coalesce=True)
        .join(reviewed, on="key", how="full", coalesce=True)
        .with_columns(
            pl.coalesce("question", "reviewed_question", "stale_question").alias("question"),
            pl.coalesce("golden_stale", "made_stale").alias("stale"),
            pl.when(pl.col("golden_stale").is_null())
            .then("made_answer")
            .otherwise("golden_answer")
            .alias("stale_answer"),
            pl.col("asked", "up", "down", "answers").fill_null(0).cast(pl.UInt32),
            pl.col("ungrounded", "teacher_differs", "conflict", "second_opinion", "settled").fill_null(False),
        )
    )
    open_ones = questions.filter(~pl.col("settled"))
    held_out = {case.question for case in tests} - set(stale["stale_question"])
    best = valued(open_ones).head(pool)
    done = questions.filter("settled")["question"].to_list()
    kept, behind = one_of_near(best, {*done, *held_out}, near)
    ranked = valued(kept.drop("disagreement", "traffic", "uncertainty", "reasons", "value"))
    counts = Counter(
        questions=questions.height,
        reviewed=questions.height - open_ones.height,
        beyond_pool=open_ones.height - best.height,
        near_a_settled_question=behind,  # a reviewed or a test question
        near_a_better_item=best.height - behind - kept.height,
        open=kept.height,
    )
    items = ranked.with_columns(
        pl.concat_str(pl.lit("q-"), pl.col("key").str.slice(0, 24)).alias("item_id"),
        pl.coalesce("lang", pl.Series([detect_lang(text) for text in ranked["question"]], dtype=pl.String)).alias(
            "lang"
        ),
        pl.col("reviewers").fill_null(pl.lit([], dtype=pl.List(pl.String))),
    )
    items = items.select(pl.col(name).cast(kind) for name, kind in COLUMNS.items())
    return Queue(items if limit is None else items.head(limit), dict(counts))


def _reviewed(lake_dir: LakeDir, catalog: Catalog | None, reviewers: int) -> pl.DataFrame:
    """What the reviews of each question come to: settled, in conflict, wanting another opinion, or stale."""
    names = ("review_id", "timestamp", "question", "answer", "reviewer", "tools")
    reviews = keyed(scan(lake_dir, "reviews").select(names).collect())
    stale = stale_rows(reviews, catalog) if catalog is not None else pl.Series([None] * len(reviews), dtype=pl.String)
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in reviews.with_columns(stale.alias("stale")).iter_rows(named=True):
        groups.setdefault(row["key"], []).append(row)
    found: list[dict[str, Any]] = []
    for key, rows in groups.items():
        fresh = [row for row in rows if row["stale"] is None]
        golden, newest = golden_of(fresh), max(rows, key=lambda row: (row["timestamp"], row["review_id"]))
        agreed = golden is not None and not golden.conflict
        enough = golden is not None and golden.reviewers >= reviewers
        found.append(
            {
                "key": key,
                "reviewed_question": newest["question"],
                "golden_answer": newest["answer"],
                "golden_stale": newest["stale"] if golden is None else None,
                "conflict": golden is not None and golden.conflict,
                "second_opinion": agreed and not enough,
                "settled": agreed and enough,
                "reviewers": sorted({row["reviewer"] or "" for row in fresh}),
            }
        )
    return pl.DataFrame(found, schema=_REVIEWED)


def _stale(lake_dir: LakeDir, catalog: Catalog | None, tests: Iterable[EvalCase]) -> pl.DataFrame:
    """Questions of synthetic and test rows whose answers are stale, with the reason."""
    if catalog is None:
        return pl.DataFrame(schema=_STALE)
    ids = pl.when(pl.col("tool_id") != "").then(pl.concat_list("tool_id"))  # empty where no tool suits
    made = scan(lake_dir, "synthetic").select("question", "answer", ids.alias("tools")).collect()
    cases = pl.DataFrame(
        [{"question": case.question, "answer": case.golden, "tools": case.tools} for case in tests], schema=made.schema
    )
    rows = pl.concat([cases, made])
    found = keyed(rows.filter((reasons := stale_rows(rows, catalog)).is_not_null()).with_columns(reasons.drop_nulls()))
    return found.select("key", stale_question="question", made_answer="answer", made_stale="stale").unique(
        "key", keep="first", maintain_order=True
    )


def with_context(lake_dir: LakeDir, items: pl.DataFrame) -> pl.DataFrame:
    """`items` with what a reviewer needs to see: retrieved_items, and the model's answer as a suggestion, with model
    and adapter; null where no request is left.
    """
    wanted = items["request_id"].drop_nulls()
    rows = (
        scan(lake_dir, "requests")
        .filter(pl.col("request_id").is_in(wanted.implode()))
        .select(
            "request_id",
            "retrieved_items",
            pl.col("llm_response_content").alias("suggestion"),
            pl.col("model").alias("suggestion_model"),
            pl.col("adapter").alias("suggestion_adapter"),
        )
        .collect()
    )
    return items.join(rows, on="request_id", how="left", maintain_order="left")
