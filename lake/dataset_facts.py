"""Counts, shares and histograms of a dataset's rows, for its manifest and card. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from lake.schemas.rows import SPLITS

FACT_COLUMNS = (
    "row_id", "split", "cluster_id", "question", "lang", "label_source", "tools", "category", "generation", "repairs",
    "rejected", "prompt_tokens", "completion_tokens",
)  # fmt: skip
MAX_BINS = 16


def short_columns(content: pl.DataFrame) -> pl.DataFrame:
    """What is held of a part of the content once it is written: answers and lists become counts."""
    return content.select(
        "row_id", "split", "cluster_id", "question", "lang", "label_source", "category", "generation",
        "prompt_tokens", "completion_tokens",
        no_tool=pl.col("tools").list.len() == 0,
        repaired=pl.col("repairs").list.len() > 0,
        pair=pl.col("rejected").is_not_null(),
    )  # fmt: skip


def row_facts(rows: pl.DataFrame, drops: Mapping[str, int], failures: int) -> dict[str, Any]:
    """The manifest's facts; `rows` are those of `short_columns`."""
    return {
        "counts": {
            "rows": len(rows),
            **{split: int((rows["split"] == split).sum()) for split in SPLITS},
            "clusters": rows["cluster_id"].n_unique(),
            "no_suitable_tool": int(rows["no_tool"].sum()),
            "rejected": sum(drops.values()),
            "repaired": int(rows["repaired"].sum()),
            "retrieval_failures": failures,
            **{f"pairs_{split}": int(((rows["split"] == split) & rows["pair"]).sum()) for split in SPLITS},
            "max_generation": _largest(rows["generation"]),
        },
        "drops": dict(sorted(drops.items())),
        "label_sources": _counts(rows["label_source"]),
        "generations": _counts(rows["generation"]),
        "languages": _shares(rows["lang"]),
        "categories": _shares(rows.filter(~pl.col("no_tool"))["category"].replace("", "(none)"), len(rows)),
        "no_suitable_tool_share": _round(int(rows["no_tool"].sum()), len(rows)),
        "tokens": {part: _quantiles(rows[f"{part}_tokens"]) for part in ("prompt", "completion")},
        "token_histogram": histogram(rows["prompt_tokens"] + rows["completion_tokens"]),
    }


def _largest(values: pl.Series) -> int:
    return int(values.max() or 0)  # type: ignore[arg-type]


def _round(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def _counts(values: pl.Series) -> dict[str, int]:
    found = values.value_counts().sort(values.name)
    return {str(value): int(n) for value, n in found.iter_rows()}


def _shares(values: pl.Series, whole: int | None = None) -> dict[str, float]:
    return {value: _round(n, whole or len(values)) for value, n in _counts(values).items()}


def _quantiles(values: pl.Series) -> dict[str, int]:
    ordered = values.sort()
    n = len(ordered)
    if not n:
        return {}
    return {
        "min": int(ordered[0]),
        "p50": int(ordered[n // 2]),
        "p95": int(ordered[min(n - 1, n * 95 // 100)]),
        "max": int(ordered[-1]),
        "sum": int(ordered.sum()),
    }


def histogram(values: pl.Series) -> dict[str, int]:
    """`from-to` (both counted in): rows, in at most `MAX_BINS` steps of a power of two."""
    if values.is_empty():
        return {}
    step, top = 1, _largest(values)
    while (top // step) + 1 > MAX_BINS:
        step *= 2
    found = dict((values // step).value_counts().iter_rows())
    low = min(found)
    return {
        f"{number * step}-{number * step + step - 1}": int(found.get(number, 0))
        for number in range(low, top // step + 1)
    }
