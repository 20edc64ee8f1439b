"""Rows that Mulle itself writes to tables, free of personal data: what a model wrote or a rejected row quotes. Pure.

Ingest masks whole columns (`lake/ingest_mask.py`); this is for the few rows of a step. A model may repeat what it was
asked, or invent a number that is somebody's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lake.privacy.mask import mask

# Free text of people and models by table: what is masked before a row is written, by whatever way.
MASKED: dict[str, tuple[str, ...]] = {
    "requests": ("user_query", "llm_response_content", "error", "client_request_id"),
    "reviews": ("question", "answer", "original_answer"),
    "feedback": ("comment", "corrected_answer"),
    "synthetic": ("question", "answer"),
    "teacher_labels": ("question", "answer"),
    "rejects": ("sample",),
    "retrieval_failures": ("question",),
}


def mask_records(table: str, rows: Sequence[Mapping[str, Any]], off: Iterable[str] = ()) -> list[dict[str, Any]]:
    """`rows` of a table of `MASKED` with its free text masked; types in `off` stay. Changes no given row."""
    left = frozenset(off)
    return [
        {
            **row,
            **{name: mask(row[name], left).text for name in MASKED[table] if isinstance(row.get(name), str)},
        }
        for row in rows
    ]
