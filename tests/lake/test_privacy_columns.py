"""Columns masked through the sieve are what row by row gives."""

from __future__ import annotations

from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lake.privacy.columns import mask_columns
from lake.privacy.mask import mask
from tests.lake.privacy_corpus import corpus
from tests.lake.test_privacy_mask import ONE_OF_EACH

PIECES = [
    *ONE_OF_EACH.values(),
    "어떤 도구가 좋을까요",
    "Figma",
    "\u200b",
    "공일공",
    "at",
    "@",
    ".com",
    "0",
    "씨",
    "김",
    "e\u0301",
]


def row_by_row(texts: list[str | None]) -> tuple[list[str | None], Counter[str]]:
    counts: Counter[str] = Counter()
    out: list[str | None] = []
    for text in texts:
        masked = mask(text) if text is not None else None
        counts += masked.counts if masked else Counter()
        out.append(masked.text if masked else None)
    return out, counts


@given(
    st.lists(st.one_of(st.none(), st.text(), st.lists(st.sampled_from(PIECES), max_size=4).map("".join)), max_size=12)
)
def test_equal_to_row_by_row(texts: list[str | None]) -> None:
    frame = pl.DataFrame({"id": range(len(texts)), "text": pl.Series(texts, dtype=pl.String)})
    masked, counts = mask_columns(frame, ["text"])
    expected, expected_counts = row_by_row(texts)
    assert masked["text"].to_list() == expected
    assert counts == expected_counts
    assert masked["id"].equals(frame["id"]) and masked.schema == frame.schema


def test_repeated_texts_are_counted_per_row() -> None:
    text = ONE_OF_EACH["phone"]
    frame = pl.DataFrame({"a": [text, None, text, "Figma"], "b": [text, "x", "y", "z"], "n": [None] * 4})
    masked, counts = mask_columns(frame, ["a", "b", "n"])
    assert counts == {"phone": 3}
    assert masked["a"].to_list() == [mask(text).text, None, mask(text).text, "Figma"]
    assert mask_columns(frame, ["a"], off=["phone"])[0].equals(frame)


def test_a_missing_column_is_an_error() -> None:
    with pytest.raises(pl.exceptions.ColumnNotFoundError):
        mask_columns(pl.DataFrame({"a": ["x"]}), ["b"])


def test_equal_on_the_corpus() -> None:
    cases = [*corpus(12, 5), *corpus(12, 5, tune=True)]
    texts: list[str | None] = [case.text for case in cases]
    masked, counts = mask_columns(pl.DataFrame({"text": texts}), ["text"])
    expected, expected_counts = row_by_row(texts)
    assert masked["text"].to_list() == expected and counts == expected_counts
