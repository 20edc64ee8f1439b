"""Whole columns masked: polars sifts with Rust patterns, and each text that could hold something is masked once.

Reads and writes nothing. Invariant: equal to `mask` row by row (`tests/lake/test_privacy_columns.py` holds it on a
corpus and on generated text); nulls stay null, other columns and the order of rows stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import polars as pl

from lake.privacy.mask import mask
from lake.privacy.triggers import BITS, FAMILIES, GATES
from lake.privacy.types import PLACEHOLDERS


def _sift(texts: pl.Series) -> pl.DataFrame:
    """The texts that could hold something, each once: text, wanted (bits of its families; null: not known), rows."""
    frame = texts.alias("text").to_frame().with_row_index("row")
    gated = {
        gate: frame if not pattern else frame.filter(pl.col("text").str.contains(pattern))
        for gate, pattern in GATES.items()
    }
    hits: list[pl.DataFrame] = []
    for family, parts in FAMILIES.items():
        for gate, pattern in parts:
            rows = gated[gate].filter(pl.col("text").str.contains(pattern)).get_column("row")
            hits.append(pl.DataFrame({"row": rows}).with_columns(bit=pl.lit(BITS[family], dtype=pl.UInt32)))
    wanted = pl.concat(hits).unique().group_by("row").agg(wanted=pl.col("bit").sum())
    suspects = frame.join(wanted, on="row", how="inner")
    known = ~pl.col("text").str.contains_any(list(PLACEHOLDERS.values()))  # in those, only Python blanks them
    return (
        suspects.group_by("text", maintain_order=True)
        .agg(pl.col("wanted").first(), rows=pl.len())
        .with_columns(wanted=pl.when(known).then(pl.col("wanted")))
    )


def mask_columns(
    frame: pl.DataFrame, columns: Sequence[str], off: Iterable[str] = ()
) -> tuple[pl.DataFrame, Counter[str]]:
    """`frame` with the String columns `columns` masked, and how many spans of each type went, over all rows.

    Types in `off` are left alone. A column that is missing, or not of type String (or Null), raises polars' own error.
    """
    left = frozenset(off)
    counts: Counter[str] = Counter()
    for column in columns:
        texts = frame.get_column(column)
        if texts.dtype == pl.Null:
            continue
        old: list[str] = []
        new: list[str] = []
        for text, wanted, rows in _sift(texts).iter_rows():
            masked = mask(text, left, wanted)
            if masked.counts:
                old.append(text)
                new.append(masked.text)
                for kind, count in masked.counts.items():
                    counts[kind] += count * rows
        if old:
            frame = frame.with_columns(pl.col(column).replace(old, new))
    return frame, counts
