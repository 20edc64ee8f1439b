"""The cluster bench runs and measures every figure; its planted near-duplicates are found. Nothing is timed here."""

from __future__ import annotations

import math
import random

from tests.bench.dataset.clusters import quality
from tests.bench.dataset.corpus import EDITS, planted, questions
from tests.bench.run import load_bench


def test_a_small_run_measures_every_figure() -> None:
    figures = list(load_bench("dataset").figures(1, ["--questions", "400", "--large", "0"]))
    goals = {(figure.figure, figure.against): figure.goal for figure in figures if figure.goal}
    assert goals[("text in, clusters out", "rensa, shingles ready")] == ">= 0.3"
    assert goals[("text in, clusters out", "datasketch, text in")] == ">= 5"
    assert goals[("split of 400 questions: a tenth more", "the first")] == "<= 0.2"
    assert all(math.isfinite(figure.value) and figure.value >= 0 for figure in figures)


def test_what_was_planted_is_found_and_little_else() -> None:
    texts = questions(8_000, seed=11)
    precision, recall = quality(texts, planted(texts, 800, seed=12), 0.45)
    assert precision >= 0.95
    assert recall >= 0.94


def test_every_edit_changes_the_text() -> None:
    texts = questions(30, seed=3)
    for edit in EDITS:
        chance = random.Random(1)
        assert sum(edit(text, chance) != text for text in texts) > 0
