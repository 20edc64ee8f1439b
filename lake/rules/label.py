"""Which answer a question is trained on, if any. Pure: columns of the lake's tables in, one row a question out.

Priority: a golden review of that very request, a golden review of the same normalised question, a correction from
feedback, a stronger model's answer, a synthetic answer, the served answer with positive feedback. No feedback is no
label, unless the policy says `served`; a bad judgement never is one. Of several reviews of a question `golden.py`
takes one; among equal labels the newest request wins, and one row a question is kept. Golden and synthetic answers
that the catalogue has outgrown (`stale`) are no labels. All of it is joins: a request without a label never becomes
a Python object. A row that is not chosen is a reject with its reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import polars as pl

from lake.rules.golden import golden_of
from lake.rules.shingles import question_keys
from lake.schemas.records import RetrievedItem

Policy = Literal["drop", "served"]
POSITIVE_SCORE = 4  # of 5; thumb "up" counts as well
NEGATIVE_SCORE = 2
PRIORITY = {"golden": 1, "correction": 2, "teacher": 3, "synthetic": 4, "positive_feedback": 5, "served": 6}
OWN_REVIEW = 0  # a golden review of that very request
STALE = "stale_catalogue"

# What is read of each table here: no retrieved items, no served answers.
COLUMNS = {
    "requests": ("request_id", "timestamp", "user_query", "stored", "key_id"),
    "reviews": ("review_id", "timestamp", "request_id", "question", "answer", "reviewer", "tools"),
    "feedback": ("feedback_id", "timestamp", "request_id", "thumb", "score", "corrected_answer", "key_id"),
    "teacher_labels": (
        "label_id", "timestamp", "request_id", "answer", "tools", "model", "finish_reason",
    ),
    "synthetic": ("synthetic_id", "timestamp", "question", "answer", "tool_id", "source"),
}  # fmt: skip
REJECTS = {"source_id": pl.String, "reason": pl.String, "sample": pl.String}
_LABEL = {
    "source_id": pl.String,
    "label_source": pl.String,
    "priority": pl.Int64,
    "answer": pl.String,  # null: the served one
    "label_ids": pl.List(pl.String),  # review, feedback or teacher label that it came from
    "tools": pl.List(pl.String),  # ids that the label was given for, where it says so
    "label_key": pl.String,  # API key of whoever gave it
    "label_model": pl.String,  # model that wrote it
    "label_finish": pl.String,
}

Stale = Callable[[pl.DataFrame, str], pl.Series]  # frame, its column of tools -> reason or null a row


@dataclass(frozen=True)
class Labelled:
    """`chosen`: table, source_id, key, question, key_id and the label's columns, one row a question, sorted by key.

    `rejects`: source_id, reason, sample. `facts`: counts for the report.
    """

    chosen: pl.DataFrame
    rejects: pl.DataFrame
    facts: dict[str, int]


def reject_rows(frame: pl.DataFrame, source_id: str, reason: pl.Expr | str, sample: str | None) -> pl.DataFrame:
    """Rows of `frame` as rejects; without `sample` they carry no text."""
    why = pl.lit(reason) if isinstance(reason, str) else reason
    text = pl.col(sample) if sample else pl.lit("")
    return frame.select(source_id=pl.col(source_id), reason=why, sample=text).cast(REJECTS)  # type: ignore[arg-type]


def choose(tables: dict[str, pl.DataFrame], policy: Policy, stale: Stale | None = None) -> Labelled:
    """One labelled row a question out of the `COLUMNS` of each table. Same rows in any order, same result."""
    requests = _nfc(tables["requests"], "user_query").rename({"user_query": "question"})
    opted_out = requests.filter(~pl.col("stored").fill_null(True))
    requests = requests.filter(pl.col("stored").fill_null(True)).drop("stored")
    synthetic = _nfc(tables["synthetic"], "question", "answer")
    reviews = _nfc(tables["reviews"], "question", "answer")
    keys = _keys([requests["question"], synthetic["question"], reviews["question"]])
    requests, synthetic, reviews = (one.join(keys, on="question", how="left") for one in (requests, synthetic, reviews))

    rejects = [reject_rows(opted_out, "request_id", "opted_out", None)]
    reviews, old_reviews = _split_stale(reviews, "tools", stale)
    synthetic, old_synthetic = _split_stale(synthetic, "tool_id", stale)
    rejects.append(reject_rows(old_reviews, "review_id", STALE, "question"))
    rejects.append(reject_rows(old_synthetic, "synthetic_id", STALE, "question"))
    asked = reviews.filter(
        pl.col("request_id").is_in(requests["request_id"].implode()) | pl.col("key").is_in(requests["key"].implode())
    )
    unasked = reviews.join(asked, on="review_id", how="anti")
    rejects.append(reject_rows(unasked, "review_id", "no_request", "question"))

    judged = _judgements(tables["feedback"])
    golden, conflicts = _golden(requests, asked)
    labels = pl.concat(
        [
            golden,
            _corrections(tables["feedback"]),
            _teacher(tables["teacher_labels"]),
            _served(requests, judged, policy),
        ]
    ).filter(pl.col("source_id").is_in(requests["request_id"].implode()))
    best = labels.sort("priority", "source_id").unique("source_id", keep="first", maintain_order=True)
    labelled = requests.rename({"request_id": "source_id"}).join(best, on="source_id")
    silent = requests.join(best, left_on="request_id", right_on="source_id", how="anti")
    rejects.append(_unlabelled(silent, judged, old_reviews))

    rows = pl.concat([_table(labelled, "requests"), _table(_synthetic(synthetic), "synthetic")])
    rows = rows.sort("key", "priority", "timestamp", "source_id", descending=[False, False, True, True])
    chosen = rows.unique("key", keep="first", maintain_order=True)
    others = rows.join(chosen, on=["table", "source_id"], how="anti")
    rejects.append(reject_rows(others, "source_id", "duplicate_question", "question"))
    facts = {"golden_conflicts": conflicts, "stale_golden": len(old_reviews), "stale_synthetic": len(old_synthetic)}
    return Labelled(chosen.drop("timestamp", "priority"), pl.concat(rejects), facts)


def _nfc(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    return frame.with_columns(pl.col(column).fill_null("").str.normalize("NFC") for column in columns)


def _keys(texts: list[pl.Series]) -> pl.DataFrame:
    """question, key: the key of every different text, worked out once."""
    unique = pl.concat([text.alias("question") for text in texts]).unique()
    return pl.DataFrame({"question": unique, "key": question_keys(unique.to_list())}, schema_overrides=_TEXTS)


_TEXTS = {"question": pl.String, "key": pl.String}


def _split_stale(frame: pl.DataFrame, tools: str, stale: Stale | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(answers that still hold, answers that do not)."""
    if stale is None or frame.is_empty():
        return frame, frame.clear()
    old = stale(frame, tools).is_not_null()
    return frame.filter(~old), frame.filter(old)


def _labels(frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with exactly the columns of a label; what it lacks is null."""
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in _LABEL.items()
    )


def _golden(requests: pl.DataFrame, reviews: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Labels of the reviews, and how many of the reviewed questions are in conflict. Reviews are few: rows."""
    by_request: dict[str, list[dict[str, Any]]] = defaultdict(list)
    by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for review in reviews.iter_rows(named=True):
        by_key[review["key"]].append(review)
        if review["request_id"]:
            by_request[review["request_id"]].append(review)
    of_request, _ = _golden_frame(by_request, OWN_REVIEW, "source_id")
    of_key, conflicts = _golden_frame(by_key, PRIORITY["golden"], "key")
    matched = requests.select(pl.col("request_id").alias("source_id"), "key").join(of_key, on="key")
    return pl.concat([_labels(of_request), _labels(matched)]), conflicts


def _golden_frame(groups: dict[str, list[dict[str, Any]]], priority: int, column: str) -> tuple[pl.DataFrame, int]:
    found = {one: golden for one, group in groups.items() if (golden := golden_of(group)) is not None}
    rows = [
        {
            column: one,
            "label_source": "golden",
            "priority": priority,
            "answer": golden.review["answer"].strip(),
            "label_ids": [golden.review["review_id"]],
            "tools": list(golden.review["tools"] or []),
        }
        for one, golden in found.items()
    ]
    schema = {column: pl.String, **{name: _LABEL[name] for name in ("label_source", "priority", "answer")}}
    schema |= {name: _LABEL[name] for name in ("label_ids", "tools")}
    return pl.DataFrame(rows, schema=schema), sum(golden.conflict for golden in found.values())


def _newest(frame: pl.DataFrame, order: str) -> pl.DataFrame:
    """One row a request, the newest."""
    frame = frame.sort("timestamp", order, descending=True)
    return frame.unique("request_id", keep="first", maintain_order=True)


def _corrections(feedback: pl.DataFrame) -> pl.DataFrame:
    answers = _nfc(feedback, "corrected_answer").with_columns(answer=pl.col("corrected_answer").str.strip_chars())
    newest = _newest(answers.filter(pl.col("answer") != ""), "feedback_id")
    return _labels(
        newest.with_columns(
            source_id="request_id",
            label_source=pl.lit("correction"),
            priority=PRIORITY["correction"],
            label_ids=pl.concat_list("feedback_id"),
            label_key="key_id",
        )
    )


def _teacher(teacher: pl.DataFrame) -> pl.DataFrame:
    newest = _newest(_nfc(teacher, "answer"), "label_id")
    return _labels(
        newest.with_columns(
            source_id="request_id",
            label_source=pl.lit("teacher"),
            priority=PRIORITY["teacher"],
            answer=pl.col("answer").str.strip_chars(),
            label_ids=pl.concat_list("label_id"),
            label_model="model",
            label_finish="finish_reason",
        )
    )


def _judgements(feedback: pl.DataFrame) -> pl.DataFrame:
    """source_id, feedback_id, label_key, verdict (up, down or null): what was said last of each request."""
    said = _newest(feedback.filter(pl.col("thumb").is_not_null() | pl.col("score").is_not_null()), "feedback_id")
    down = (pl.col("thumb") == "down").fill_null(False) | (pl.col("score") <= NEGATIVE_SCORE).fill_null(False)
    up = (pl.col("thumb") == "up").fill_null(False) | (pl.col("score") >= POSITIVE_SCORE).fill_null(False)
    return said.select(
        pl.col("request_id").alias("source_id"),
        "feedback_id",
        pl.col("key_id").alias("label_key"),
        verdict=pl.when(down).then(pl.lit("down")).when(up).then(pl.lit("up")),
    )


def _served(requests: pl.DataFrame, judged: pl.DataFrame, policy: Policy) -> pl.DataFrame:
    """The served answer (read later) where someone liked it, or where nobody minded and the policy says so."""
    liked = _labels(
        judged.filter(pl.col("verdict") == "up").with_columns(
            label_source=pl.lit("positive_feedback"),
            priority=PRIORITY["positive_feedback"],
            label_ids=pl.concat_list("feedback_id"),
        )
    )
    if policy == "drop":
        return liked
    others = requests.select(pl.col("request_id").alias("source_id")).join(
        judged.filter(pl.col("verdict").is_not_null()), on="source_id", how="anti"
    )
    silent = others.with_columns(
        label_source=pl.lit("served"),
        priority=PRIORITY["served"],
        label_ids=pl.lit([], dtype=pl.List(pl.String)),
    )
    return pl.concat([liked, _labels(silent)])


def _unlabelled(silent: pl.DataFrame, judged: pl.DataFrame, old_reviews: pl.DataFrame) -> pl.DataFrame:
    """Why requests have no label: someone disliked the answer, the golden one is stale, or nobody said anything."""
    disliked = judged.filter(pl.col("verdict") == "down").select("source_id", bad=pl.lit(True))
    stale = pl.col("key").is_in(old_reviews["key"].implode()) | pl.col("request_id").is_in(
        old_reviews["request_id"].drop_nulls().implode()
    )
    reason = (
        pl.when(pl.col("bad").fill_null(False))
        .then(pl.lit("negative_feedback"))
        .when(stale)
        .then(pl.lit(STALE))
        .otherwise(pl.lit("no_label"))
    )
    rows = silent.join(disliked, left_on="request_id", right_on="source_id", how="left").with_columns(reason=reason)
    rows = rows.with_columns(pl.when(pl.col("reason") != "no_label").then("question").otherwise(pl.lit("")))
    return reject_rows(rows, "request_id", pl.col("reason"), "question")


def _synthetic(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(
        source_id="synthetic_id",
        key_id=pl.lit(None, dtype=pl.String),
        label_source=pl.lit("synthetic"),
        priority=PRIORITY["synthetic"],
        answer=pl.col("answer").str.strip_chars(),
        label_ids=pl.lit([], dtype=pl.List(pl.String)),
        tools=pl.concat_list("tool_id").list.set_difference(pl.lit([""])),  # no tool suits: no id
        label_model=pl.col("source").str.strip_prefix("llm:"),
    )


def _table(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    head = rows.select(pl.lit(name).alias("table"), "timestamp", "key", "question", "key_id")
    return pl.concat([head, _labels(rows)], how="horizontal")


def to_item(value: Mapping[str, Any]) -> RetrievedItem:
    """A retrieved item out of a table row; missing scores are left out."""
    scores = cast(Mapping[str, Any], value.get("scores") or {})
    return RetrievedItem(
        rank=int(value["rank"] or 0),
        score=float(value["score"] or 0.0),
        id=value["id"] or "",
        name=value["name"] or "",
        url=value["url"] or "",
        description=value["description"] or "",
        chunk_text=value["chunk_text"] or "",
        tags=list(value["tags"] or []),
        category=value["category"] or "",
        scores={name: float(score) for name, score in scores.items() if score is not None},
    )
