"""Personal data out of rows before they reach the lake. Pure; `lake/privacy` knows what is personal.

Invariant: no free text of people goes into a table unmasked, whatever way the row was parsed; a row whose question
was masked has no hash of its prompt, from which a short number could be guessed. Catalogue text is public and stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute

from lake.privacy.columns import mask_columns
from lake.privacy.records import MASKED
from lake.privacy.types import PII_TYPES

pc: Any = pyarrow.compute  # has no type stubs

_QUESTION, _HASH = "user_query", "prompt_sha256"


def mask_rows(name: str, rows: pa.Table, off: Collection[str] = ()) -> tuple[pa.Table, Counter[str]]:
    """Rows with placeholders for personal data, and how many spans of each type went. Types in `off` stay."""
    if off and set(PII_TYPES) <= set(off):
        return rows, Counter()
    columns = list(MASKED[name])
    frame = pl.DataFrame(rows.select(columns))
    masked, counts = mask_columns(frame, columns, off)
    if not counts:
        return rows, counts
    table: Any = rows
    for column in columns:
        if masked[column].equals(frame[column], null_equal=True):
            continue
        new = masked[column].to_arrow().cast(pa.string())
        if column == _QUESTION:
            touched = pc.not_equal(new, table.column(column).combine_chunks())
            hashes = pc.if_else(touched, pa.scalar(None, pa.string()), table.column(_HASH))
            table = _replace(table, _HASH, hashes)
        table = _replace(table, column, new)
    return table, counts


def _replace(table: Any, column: str, values: Any) -> Any:
    position = table.schema.get_field_index(column)
    return table.set_column(position, table.schema.field(position), values)
