"""Promise 12: how much personal data masking finds, by type, is measured, and structured types are found at 99 %.

Seeded sentences (`tests/lake/privacy_corpus.py`, the side that the rules were not tuned on): one of every type and as
many clean ones a cycle. Names and addresses have no floor but are counted; so are clean sentences that were hit, and
columns must be masked as texts are.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import polars as pl

from lake.privacy.columns import mask_columns
from lake.privacy.mask import find, mask
from lake.privacy.types import PII_TYPES
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.lake.privacy_corpus import STRUCTURED, Case, Finder, corpus, score

NAME, PROMISE, UNIT, FULL = "pii", "12", "rounds of a sentence of every type", 500
FLOOR = 0.99
MAX_CLEAN_HITS = 0.01


def run(cycles: int, seed: int, scratch: Path, progress: Progress = quiet, finder: Finder = find) -> Tally:
    """`finder`: what finds the spans; tests plant one that is blind to a type."""
    tally = Tally()
    cases: list[Case] = []
    for cycle_seed, _ in cycles_of(cycles, seed, tally, progress):
        cases += corpus(1, cycle_seed)
    result = score(cases, finder)
    tally.counts["spans"] = result.planted.total()
    tally.counts["clean sentences"] = result.clean
    tally.counts["clean sentences hit"] = result.clean_hit
    for kind in PII_TYPES:
        tally.figures[kind] = f"{result.recall(kind):.2%}/{result.precision(kind):.2%}"
        if kind in STRUCTURED:
            missed = [case.text for case in result.missed if case.kind == kind][:3]
            tally.check(result.recall(kind) >= FLOOR, seed, f"{kind}: recall {result.recall(kind):.2%}, e.g. {missed}")
    tally.check(
        result.clean_hit <= MAX_CLEAN_HITS * result.clean,
        seed,
        f"{result.clean_hit} of {result.clean} clean sentences hit: {[case.text for case, _ in result.wrong][:3]}",
    )
    masked, counts = mask_columns(pl.DataFrame({"text": [case.text for case in cases]}), ["text"])
    by_row = [mask(case.text) for case in cases]
    same = masked["text"].to_list() == [row.text for row in by_row]
    tally.check(same and counts == sum((row.counts for row in by_row), Counter()), seed, "columns differ from texts")
    return tally
