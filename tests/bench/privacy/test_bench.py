"""The bench masks what it says, and its arms run."""

from __future__ import annotations

from lake.privacy.columns import mask_columns
from tests.bench.privacy.bench import figures, texts


def test_the_share_of_personal_texts_is_what_was_asked() -> None:
    frame = texts(400, 0.25)
    masked, counts = mask_columns(frame, ["text"])
    share = (masked["text"] != frame["text"]).mean()
    assert 0.15 < float(share or 0) < 0.35 and len(counts) > 8  # type: ignore[arg-type]
    assert not mask_columns(texts(200, 0.0), ["text"])[1]


def test_every_arm_has_a_figure() -> None:
    names = {figure.figure for figure in figures(1, ["--rows", "100", "--personal", "0.1"])}
    assert {"bare, MB/s", "columns, MB/s", "clean, texts/s", "rows, texts/s", "columns / bare"} <= names
