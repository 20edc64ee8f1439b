"""Masking columns beside polars' bare pass of one pattern: `make bench NAME=privacy`, or with
`BENCH_ARGS="--rounds 3 -- --rows 200000 --personal 0.02"`.

Texts: questions and answers of the sample in fresh pairs, mostly different from each other, and a share of sentences
with personal data of all 14 types, half of them in disguise (`tests/lake/privacy_corpus.py`). Arms, interleaved: `bare`
is `str.replace_all` of one telephone pattern over the column; `columns` is `mask_columns`; `clean` the same without
personal data; `rows` is `mask` text by text, on a tenth. What ingest as a whole loses by masking is in
`make bench NAME=lake`.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence

import orjson
import polars as pl

from lake.privacy.columns import mask_columns
from lake.privacy.mask import mask
from tests.bench.run import ROOT, Figure, interleaved
from tests.lake.privacy_corpus import corpus

SEED = 20_261_125
_PHONE = r"01\d-\d{3,4}-\d{4}"


def texts(count: int, personal: float, seed: int = SEED) -> pl.DataFrame:
    """One column `text`; the share `personal` of its rows has something to mask."""
    rng = random.Random(seed)
    plain = [
        row[name]
        for file in ("questions", "reviews", "test")
        for row in map(orjson.loads, (ROOT / f"data/sample/{file}.jsonl").read_bytes().splitlines())
        for name in ("question", "answer")
        if name in row
    ]
    marked = [case.text for case in corpus(400, seed) if case.kind]

    def one() -> str:
        if rng.random() < personal:
            return rng.choice(marked)
        return f"{rng.choice(plain)} {rng.choice(plain)[: rng.randint(0, 40)]}"

    return pl.DataFrame({"text": [one() for _ in range(count)]})


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def figures(rounds: int, arguments: Sequence[str]) -> list[Figure]:
    """Rates in texts and in megabytes a second, and the bare pass's time as a share of ours."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--personal", type=float, default=0.02, help="share of texts with personal data")
    options = parser.parse_args(arguments)
    frame, clean = texts(options.rows, options.personal), texts(options.rows, 0.0)
    few = frame["text"].head(max(1, options.rows // 10)).to_list()
    taken = interleaved(
        {
            "bare": lambda: _seconds(lambda: frame.select(pl.col("text").str.replace_all(_PHONE, "x"))),
            "columns": lambda: _seconds(lambda: mask_columns(frame, ["text"])),
            "clean": lambda: _seconds(lambda: mask_columns(clean, ["text"])),
            "rows": lambda: _seconds(lambda: [mask(text) for text in few]),
        },
        rounds,
    )
    size = {"bare": frame, "columns": frame, "clean": clean}
    found = [
        Figure(f"{arm}, MB/s", "MB/s", [one["text"].str.len_bytes().sum() / 1e6 / s for s in taken[arm]])
        for arm, one in size.items()
    ]
    found += [Figure(f"{arm}, texts/s", "1/s", [options.rows / s for s in taken[arm]]) for arm in size]
    found.append(Figure("rows, texts/s", "1/s", [len(few) / s for s in taken["rows"]]))
    ratios = [bare / ours for bare, ours in zip(taken["bare"], taken["columns"], strict=True)]
    found.append(Figure("columns / bare", "x", ratios, "polars str.replace_all of one pattern"))
    return found
