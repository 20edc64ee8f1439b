"""Questions that are too near others are left out: near a test question, a logged one, or an earlier synthetic one.

Pure but for the batches that it is handed: logged questions may be many, so they pass by `BATCH` at a time and nothing
of them is kept. Own questions are few enough to be compared with each other at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import polars as pl

from lake.location import LakeDir
from lake.rules.near import NearIndex
from lake.rules.shingles import Shingles, concatenate, question_keys, shingle
from lake.tables import scan

BATCH = 50_000


def read_questions(lake_dir: LakeDir, run_id: str) -> Iterable[tuple[str, list[str]]]:
    """(reason, questions) for batches of the lake: `near_logged` and, of other runs, `duplicate`."""
    requests = scan(lake_dir, "requests").filter(pl.col("stored").fill_null(True)).select(question="user_query")
    reviews = scan(lake_dir, "reviews").select("question")
    earlier = scan(lake_dir, "synthetic").filter(pl.col("run_id") != run_id).select("question")
    for reason, frame in (("near_logged", requests), ("near_logged", reviews), ("duplicate", earlier)):
        for batch in frame.collect_batches(chunk_size=BATCH, maintain_order=False):
            for part in batch.unique("question", maintain_order=True).iter_slices(BATCH):
                yield reason, part["question"].to_list()


def too_near(questions: Sequence[str], others: Iterable[tuple[str, Sequence[str]]], threshold: float) -> dict[int, str]:
    """Position: reason, for each of `questions` near one of `others` (the first that says so) or an earlier kept one
    of its own kind (`duplicate`).
    """
    own = shingle(questions)
    keys = question_keys(questions)
    found: dict[int, str] = {}
    for reason, batch in others:
        known = set(question_keys(batch))
        index = NearIndex(concatenate([own, shingle(batch)]), threshold)
        touched = index.touching(np.arange(len(own)), len(own) + np.arange(len(batch)))
        for place, key in enumerate(keys):
            if touched[place] or key in known:
                found.setdefault(place, reason)
    near = _by_later(own, threshold)
    taken: set[int] = set()
    taken_keys: set[str] = set()
    for place, key in enumerate(keys):
        if place in found:
            continue
        if key in taken_keys or near.get(place, set()) & taken:
            found[place] = "duplicate"
        else:
            taken.add(place)
            taken_keys.add(key)
    return found


def _by_later(own: Shingles, threshold: float) -> Mapping[int, set[int]]:
    """The earlier rows that each row is near."""
    near: dict[int, set[int]] = {}
    left, right, _ = NearIndex(own, threshold).pairs(np.arange(len(own)))
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        near.setdefault(b, set()).add(a)
    return near
