"""What a review of a question is worth: disagreement × traffic × uncertainty of the retrieval. Pure, over frames.

A question is an item of the review queue, by its normalised text (`question_key`); near-duplicates of a better item
wait behind it. `value` is the product of three factors, each a column of its own:

    disagreement   1 - Π(1 - weight × signal) over `WEIGHTS`, 0..1; never below `BASE`, so that a question that many ask
                   gets its turn although nobody complained
    traffic        1 + log2(1 + asked), with its near-duplicates
    uncertainty    1 - 0.9 × margin; margin: how far the second tool's score lies below the first's, as a share of the
                   first's (0..1; scores of any scale); 1 where nothing was retrieved, 0.5 where there are no two scores

`reasons` names the signals, strongest first. Everything is deterministic; equals go by the question's key.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import reduce
from operator import mul

import numpy as np
import polars as pl

from lake import house_style
from lake.rules.label import NEGATIVE_SCORE, POSITIVE_SCORE
from lake.rules.near import NearIndex
from lake.rules.shingles import question_keys, shingle

BASE = 0.05
WEIGHTS = {
    "stale_catalogue": 1.0,  # its golden, synthetic or test answer does not fit the catalogue any more
    "reviewer_conflict": 1.0,  # reviewers named different tools, none by more than half of them
    "thumb_down": 0.9,  # share of the judgements that are negative; a corrected answer is one
    "ungrounded": 0.7,  # the newest answer names a tool or an address that was not retrieved
    "teacher_differs": 0.7,  # a stronger model recommends another tool
    "conflicting_feedback": 0.6,  # some judged it good, some bad
    "several_answers": 0.5,  # 1 - 1/k for k recommendations to the same question
    "second_opinion": 0.3,  # reviewed, by fewer people than wanted
}
REQUEST_COLUMNS = (
    "request_id", "timestamp", "user_query", "lang", "retrieved_items", "llm_response_content", "stored",
)  # fmt: skip
FLOOR = 0.1  # of the uncertainty
_URL = r"https?://[^\s<>\"'`)\]}）」』】]+"
_HEAD = rf"^\s*(?:{'|'.join(label['name'] for label in house_style.LABELS.values())})\s*:\s*([^\n]+)"
_NONE = [label["none"] for label in house_style.LABELS.values()]


def recommendation(answer: pl.Expr) -> pl.Expr:
    """What an answer recommends, comparable: the tool's name in house style, else the whole text; null for none."""
    text = answer.str.strip_chars()
    return (
        pl.coalesce(text.str.extract(_HEAD).str.strip_chars().str.to_lowercase(), text)
        .replace("", None)
        .alias("recommendation")
    )


def request_features(requests: pl.LazyFrame) -> pl.LazyFrame:
    """The narrow columns that ranking needs of `REQUEST_COLUMNS`; opted-out and empty questions are left out."""
    items, answer = pl.col("retrieved_items"), pl.col("llm_response_content").str.strip_chars()
    scores = items.list.eval(pl.element().struct.field("score"))
    names = items.list.eval(pl.element().struct.field("name").str.strip_chars().str.to_lowercase())
    addresses = items.list.eval(pl.element().struct.field("url").str.strip_chars_end("/").str.to_lowercase())
    said = answer.str.extract_all(_URL).list.eval(pl.element().str.strip_chars_end("/.,;:!?。、").str.to_lowercase())
    name = answer.str.extract(_HEAD).str.strip_chars()
    first, second = scores.list.get(0, null_on_oob=True), scores.list.get(1, null_on_oob=True)
    return requests.filter(pl.col("stored").fill_null(True) & (pl.col("user_query").str.strip_chars() != "")).select(
        "request_id",
        "timestamp",
        pl.col("user_query").alias("question"),
        "lang",
        recommendation(pl.col("llm_response_content")),
        (
            (name.is_not_null() & ~name.is_in(_NONE) & ~names.list.contains(name.str.to_lowercase()))
            | (said.list.set_difference(addresses).list.len() > 0)
        )
        .fill_null(False)
        .alias("ungrounded"),
        pl.when(items.list.len().fill_null(0) == 0)
        .then(0.0)
        .otherwise(pl.when(first == 0.0).then(0.0).otherwise(((first - second) / first.abs()).clip(0.0, 1.0)))
        .alias("margin"),
    )


def keyed(frame: pl.DataFrame, column: str = "question") -> pl.DataFrame:
    """The frame with `key`, the `question_key` of its texts; each distinct text is normalised once."""
    texts = frame.select(pl.col(column).unique(maintain_order=True))
    keys = pl.Series("key", question_keys(texts.to_series().to_list()), dtype=pl.String)
    return frame.join(texts.with_columns(keys), on=column, how="left", maintain_order="left")


def by_question(asked: pl.DataFrame, feedback: pl.DataFrame, taught: pl.DataFrame) -> pl.DataFrame:
    """One row a question: how often it was asked, its newest request (an answered one, if any), and the signals.

    `asked`: `keyed(request_features)`; `feedback`: request_id, thumb, score, corrected_answer; `taught`: request_id and
    answer of a stronger model.
    """
    score, thumb = pl.col("score"), pl.col("thumb")
    corrected = pl.col("corrected_answer").str.strip_chars().fill_null("") != ""
    down = ((thumb == "down") | (score <= NEGATIVE_SCORE) | corrected).fill_null(False)
    up = ((thumb == "up") | (score >= POSITIVE_SCORE)).fill_null(False) & ~down
    judged = feedback.select("request_id", down.alias("down"), up.alias("up")).group_by("request_id").sum()
    teacher = taught.select("request_id", recommendation(pl.col("answer")).alias("teacher")).unique(
        "request_id", keep="last", maintain_order=True
    )
    differs = (pl.col("teacher") != pl.col("recommendation")).fill_null(False)
    return (
        asked.join(judged, on="request_id", how="left")
        .join(teacher, on="request_id", how="left")
        .sort(pl.col("recommendation").is_not_null(), "timestamp", "request_id")
        .group_by("key", maintain_order=True)
        .agg(
            pl.col("question", "lang", "request_id", "timestamp", "ungrounded", "margin").last(),
            pl.len().alias("asked"),
            pl.col("up").sum(),
            pl.col("down").sum(),
            pl.col("recommendation").drop_nulls().n_unique().alias("answers"),
            differs.any().alias("teacher_differs"),
        )
    )


def valued(items: pl.DataFrame) -> pl.DataFrame:
    """`items` with disagreement, traffic, uncertainty, value and reasons, the best first.

    Reads the columns of `by_question`, and `stale` (a reason or null), `conflict` and `second_opinion`.
    """
    judged = pl.col("up") + pl.col("down")
    signals: dict[str, pl.Expr] = {
        "stale_catalogue": pl.col("stale").is_not_null().cast(pl.Float64),
        "reviewer_conflict": pl.col("conflict").cast(pl.Float64),
        "thumb_down": pl.when(judged > 0).then(pl.col("down") / judged).otherwise(0.0),
        "ungrounded": pl.col("ungrounded").cast(pl.Float64),
        "teacher_differs": pl.col("teacher_differs").cast(pl.Float64),
        "conflicting_feedback": ((pl.col("up") > 0) & (pl.col("down") > 0)).cast(pl.Float64),
        "several_answers": 1.0 - 1.0 / pl.col("answers").clip(1),
        "second_opinion": pl.col("second_opinion").cast(pl.Float64),
    }
    agreed = reduce(mul, (1.0 - WEIGHTS[name] * signal for name, signal in signals.items()))
    named = [
        pl.when(signal > 0).then(
            pl.concat_str(pl.lit("stale_catalogue:"), "stale") if name == "stale_catalogue" else pl.lit(name)
        )
        for name, signal in signals.items()
    ]
    return (
        items.with_columns(
            pl.max_horizontal(1.0 - agreed, BASE).round(6).alias("disagreement"),
            (1.0 + (1.0 + pl.col("asked")).log(2.0)).round(6).alias("traffic"),
            (1.0 - (1.0 - FLOOR) * pl.col("margin")).fill_null(0.5).round(6).alias("uncertainty"),
            pl.concat_list(named).list.drop_nulls().alias("reasons"),
        )
        .with_columns((pl.col("disagreement") * pl.col("traffic") * pl.col("uncertainty")).round(6).alias("value"))
        .sort(["value", "key"], descending=[True, False])
    )


def one_of_near(items: pl.DataFrame, done: Collection[str], threshold: float) -> tuple[pl.DataFrame, int]:
    """(`items` without near-duplicates, how many of those stand behind a question of `done`).

    Questions that hang together by near-duplicates (Jaccard similarity of the shingles from `threshold` on) are one:
    the first of them stands for all and takes over what they add to `asked`; where one of them is in `done`, which is
    settled, none is left. `items` come best first.
    """
    finished, questions = sorted(done), items["question"].to_list()
    rows = np.arange(len(finished) + len(questions))
    firsts = NearIndex(shingle([*finished, *questions]), threshold).labels(rows)
    leaders = firsts[len(finished) :] - len(finished)  # below zero: one of `done`
    behind = pl.DataFrame({"leader": leaders, "asked": items["asked"]}, schema={"leader": pl.Int64, "asked": pl.UInt32})
    own = behind.group_by("leader").agg(pl.col("asked").sum(), (pl.len() - 1).alias("near"))
    kept = (
        items.drop("asked")
        .with_row_index("leader")
        .with_columns(pl.col("leader").cast(pl.Int64))
        .join(own, on="leader", how="inner", maintain_order="left")  # the others lead nothing
    )
    return kept.drop("leader"), behind.filter(pl.col("leader") < 0).height
