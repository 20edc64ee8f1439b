"""Limits over all rows of a build: generations, duplicates, caps by cluster and by key, shares. Pure.

Works on columns (`ROW`), never on prompts. Rows that a person wrote go last, then by a seeded draw, so the same rows
in any order lose the same ones. Every share holds in what is left at the end: the share rules are repeated until none
drops anything. A share that no choice can reach (0.1 a category where there are three) makes the groups equal.

    max_generation        an answer of our own, trained on its own answers too often
    duplicate_in_cluster  same answer to a near-duplicate question: one key could say the same thing a hundred times,
                          or a hundred keys once each; answers that reviewers wrote are exempt
    cluster_cap           too many rows of one near-duplicate cluster
    own_share             answers of the base and our adapters beyond their share
    synthetic_share       synthetic rows beyond theirs
    key_cap               rows that hang on one API key (of the question, or of the feedback) beyond number or share
    language_share, category_share, no_tool_share   balance
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import floor

import polars as pl

from lake.rules.clean import SERVED
from lake.rules.label import PRIORITY, reject_rows

ROW = {
    "row_id": pl.String,
    "source_id": pl.String,
    "question": pl.String,
    "cluster_id": pl.String,
    "label_source": pl.String,
    "keys": pl.List(pl.String),  # API keys that could have planted the row; none: nobody's, or no keys in use
    "answer_key": pl.String,  # equal for equal answers
    "generation": pl.Int64,
    "draw": pl.Float64,  # [0, 1), from seed and row id
    "lang": pl.String,
    "category": pl.String,  # of the answer's first tool; empty where no tool suits
    "no_tool": pl.Boolean,
}
EXEMPT = ("golden", "synthetic")  # a reviewer's words, and rows that no key asked for


@dataclass(frozen=True, slots=True)
class Limits:
    """Shares are of the rows that are left, 0 to 1; 1 switches a rule off."""

    max_generation: int = 3
    cluster_cap: int = 20
    own_share: float = 0.5
    synthetic_share: float = 0.5
    key_rows: int = 20
    key_share: float = 0.01
    language_shares: Mapping[str, float] = field(default_factory=dict[str, float])
    category_share: float = 1.0
    no_tool_share: float = 1.0


Rule = Callable[[pl.DataFrame], pl.Series]  # rows in their order of worth -> which of them stay


def apply_limits(rows: pl.DataFrame, limits: Limits) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(rows that stay, rejects). `rows` has the columns of `ROW`; what stays is sorted by row id."""
    order = pl.col("label_source").replace_strict(PRIORITY, default=max(PRIORITY.values()) + 1, return_dtype=pl.Int64)
    left = rows.sort(order, "draw", "row_id")
    dropped = [reject_rows(rows.clear(), "source_id", "", "question")]

    def run(rules: Sequence[tuple[str, Rule]]) -> None:
        nonlocal left
        for reason, rule in rules:
            stays = rule(left)
            dropped.append(reject_rows(left.filter(~stays), "source_id", reason, "question"))
            left = left.filter(stays)

    run(
        [
            ("max_generation", lambda frame: frame["generation"] <= limits.max_generation),
            ("duplicate_in_cluster", _one_answer_a_cluster),
            ("cluster_cap", lambda frame: _rank(frame, "cluster_id") < limits.cluster_cap),
        ]
    )
    shares, before = _share_rules(limits), -1
    while before != len(left):
        before = len(left)
        run(shares)
    return left.sort("row_id"), pl.concat(dropped)


def _share_rules(limits: Limits) -> list[tuple[str, Rule]]:
    own = pl.col("label_source").is_in(sorted(SERVED)) & (pl.col("generation") > 0)
    rules: list[tuple[str, Rule]] = [
        ("own_share", partial(_share, members=own, share=limits.own_share)),
        (
            "synthetic_share",
            partial(_share, members=pl.col("label_source") == "synthetic", share=limits.synthetic_share),
        ),
        ("key_cap", partial(_key_cap, limits=limits)),
    ]
    for lang, share in sorted(limits.language_shares.items()):
        rules.append(("language_share", partial(_share, members=pl.col("lang") == lang, share=share)))
    rules.append(("category_share", partial(_every_group, column="category", share=limits.category_share)))
    rules.append(("no_tool_share", partial(_share, members=pl.col("no_tool"), share=limits.no_tool_share)))
    return rules


def _rank(frame: pl.DataFrame, column: str) -> pl.Series:
    """0, 1, 2, ... within each group, in the frame's order."""
    return frame.select(pl.int_range(pl.len()).over(column)).to_series()


def _one_answer_a_cluster(frame: pl.DataFrame) -> pl.Series:
    repeats = pl.int_range(pl.len()).over("cluster_id", "answer_key") > 0
    return frame.select(~repeats | pl.col("label_source").is_in(EXEMPT)).to_series()


def _floor(value: float) -> int:
    return floor(value + 1e-9)  # 0.3 / 0.7 * 70 is 29.999999999999996


def _share(frame: pl.DataFrame, members: pl.Expr, share: float) -> pl.Series:
    """Which rows stay so that `members` are at most `share` of them."""
    inside = frame.select(members.fill_null(False)).to_series()
    count = int(inside.sum())
    if share >= 1.0 or not count:
        return pl.repeat(True, len(frame), eager=True)
    limit = _floor(share / (1.0 - share) * (len(frame) - count))
    return ~inside | (inside.cast(pl.Int64).cum_sum() <= limit)


def _level(ranks: pl.Series, exempt: int, top: int, share: float, least: int) -> int:
    """The highest number a group may keep, so that it is at most `share` of all that then stays."""
    for level in range(top, least, -1):
        if level <= share * (exempt + int((ranks < level).sum())) + 1e-9:
            return level
    return least


def _every_group(frame: pl.DataFrame, column: str, share: float) -> pl.Series:
    """Every group of `column` at most `share` of what stays; rows with an empty value are nobody's."""
    if share >= 1.0 or frame.is_empty():
        return pl.repeat(True, len(frame), eager=True)
    grouped = frame[column].fill_null("") != ""
    sizes = frame.filter(grouped)[column].value_counts()["count"]
    if sizes.is_empty():
        return pl.repeat(True, len(frame), eager=True)
    exempt, top, least = int((~grouped).sum()), int(sizes.max()), int(sizes.min())  # type: ignore[arg-type]
    low, high = 0, top  # the share that a level leaves grows with the level
    while low < high:
        middle = (low + high + 1) // 2
        if middle <= share * (exempt + int(sizes.clip(upper_bound=middle).sum())) + 1e-9:
            low = middle
        else:
            high = middle - 1
    return ~grouped | (_rank(frame, column) < (low or least))


def _key_cap(frame: pl.DataFrame, limits: Limits) -> pl.Series:
    """At most `key_rows` rows and `key_share` of the rows hang on one key, but always one."""
    planted = frame.with_row_index("row").filter(~pl.col("label_source").is_in(EXEMPT))
    ranks = (
        planted.select("row", pl.col("keys").list.drop_nulls().list.unique())
        .explode("keys")
        .drop_nulls("keys")
        .with_columns(rank=pl.int_range(pl.len()).over("keys"))
        .group_by("row", maintain_order=True)
        .agg(pl.col("rank").max())
    )
    level = _level(ranks["rank"], len(frame) - len(ranks), limits.key_rows, limits.key_share, 1)
    gone = ranks.filter(pl.col("rank") >= level)["row"]
    return ~pl.int_range(len(frame), eager=True).is_in(gone.implode())
