"""Whole columns masked: polars sifts with one Rust pattern, and each text that could hold something is masked once.

Reads and writes nothing. Invariant: equal to `mask` row by row (`tests/lake/test_privacy_columns.py` holds it on a
corpus and on generated text); nulls stay null, other columns and the order of rows stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import polars as pl

from lake.privacy.mask import mask
from lake.privacy.triggers import TRIGGER


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
        suspects = texts.filter(texts.str.contains(TRIGGER))
        tally = suspects.value_counts(name="__rows")
        old: list[str] = []
        new: list[str] = []
        for text, rows in tally.iter_rows():
            masked = mask(text, left)
            if masked.counts:
                old.append(text)
                new.append(masked.text)
                for kind, count in masked.counts.items():
                    counts[kind] += count * rows
        if old:
            frame = frame.with_columns(pl.col(column).replace(old, new))
    return frame, counts
