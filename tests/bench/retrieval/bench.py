"""What each step of retrieval is worth: `make bench NAME=retrieval`.

Asks the labelled questions of the sample over the sample catalogue and ranks each question's tools by dense, lexical,
hybrid (reciprocal rank fusion) and reranked scores. Two sets: `choice` is questions.jsonl, by folds, with weights
fitted without the fold in question, and is what the defaults are chosen by; `test` is test.jsonl, with
configs/reranker.json as it is, and is what is published. Each step up, and each group of features that is left out, has
a paired bootstrap interval over the questions (10,000 resamples, seeded). `--chart FILE` draws the test set's figures.

The default ranking (reranked) has a goal: the lower end of its interval over every other arm is above zero.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from lake.catalog import load_catalog
from serving.encoders import load_encoder
from serving.features import FEATURE_NAMES
from serving.index import build_index, load_index
from serving.rerank import FusionReranker, LinearReranker
from serving.rerank_fit import FOLDS, Labelled, fit_weights, label
from serving.retriever import Retriever
from tests.bench.retrieval.scores import ALSO_GAIN, Interval, auc, ndcg, paired, recall, reciprocal_rank
from tests.bench.run import ROOT, Figure

ARMS = ("lexical", "dense", "hybrid", "reranked")
METRICS = ("nDCG@10", "recall@10", "MRR")
STEPS = (
    ("lexical", "dense"), ("dense", "hybrid"), ("lexical", "hybrid"), ("hybrid", "reranked"), ("lexical", "reranked"),
    ("dense", "reranked"),
)  # fmt: skip
GROUPS: dict[str, tuple[str, ...]] = {
    "dense": ("dense_own", "dense_other", "dense_names", "dense_best"),
    "words (BM25)": ("words_share", "words_rank"),
    "n-grams (BM25)": ("grams_share", "grams_rank"),
    "name and alias": ("named", "excluded"),
    "tags": ("tags",),
    "category": ("category", "dense_category"),
    "language": ("lang",),
}
Scores = dict[str, dict[str, NDArray[np.float64]]]  # arm → metric → one value a question


@dataclass(frozen=True)
class Case:
    """An answerable question with its pool and the ids that are right."""

    labelled: Labelled
    right: set[str]
    also: set[str]

    def scored(self, scores: NDArray[np.float64]) -> dict[str, float]:
        order = np.argsort(-scores, kind="stable").tolist()
        ranked = [self.labelled.pool.tools[place].id for place in order]
        gains = {**dict.fromkeys(self.also, ALSO_GAIN), **dict.fromkeys(self.right, 1.0)}
        values = (ndcg(ranked, gains), recall(ranked, self.right), reciprocal_rank(ranked, self.right))
        return dict(zip(METRICS, values, strict=True))


def read(path: Path, retriever: Retriever) -> tuple[list[Case], list[Labelled]]:
    """(answerable questions, the others)."""
    rows: list[dict[str, Any]] = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
    cases, hopeless = [], []
    for row, labelled in zip(rows, label(rows, retriever), strict=True):
        if row.get("tools"):
            cases.append(Case(labelled, set(row["tools"]), set(row.get("also", ()))))
        else:
            hopeless.append(labelled)
    return cases, hopeless


def score(cases: Sequence[Case], weights: Sequence[NDArray[np.float64]]) -> Scores:
    """Every arm on every question; `weights[fold]` rerank that fold."""
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for case in cases:
        pool = case.labelled.pool
        ranked = {
            "lexical": pool.scores.lexical,
            "dense": pool.scores.dense,
            "hybrid": FusionReranker().rank(pool),
            "reranked": pool.features @ weights[case.labelled.fold],
        }
        for arm in ARMS:
            found[arm].append(case.scored(ranked[arm]))
    return {arm: {name: np.array([one[name] for one in rows]) for name in METRICS} for arm, rows in found.items()}


def by_fold(cases: Sequence[Case], without: Sequence[str] = ()) -> list[NDArray[np.float64]]:
    """Weights of each fold, fitted on the others; features in `without` are 0 for the fit and so for the ranking."""
    keep = np.array([name not in without for name in FEATURE_NAMES], dtype=np.float64)
    examples = [
        replace(case.labelled, pool=replace(case.labelled.pool, features=case.labelled.pool.features * keep))
        for case in cases
    ]
    return [fit_weights([one for one in examples if one.fold != fold]) * keep for fold in range(FOLDS)]


def ablations(cases: Sequence[Case], full: Scores) -> dict[str, Interval]:
    """nDCG@10 of all features over all but one group."""
    return {
        group: paired(full["reranked"]["nDCG@10"], score(cases, by_fold(cases, names))["reranked"]["nDCG@10"])
        for group, names in GROUPS.items()
    }


def best_scores(reranker: LinearReranker, examples: Iterable[Labelled]) -> list[float]:
    """The calibrated score of each question's best tool."""
    return [float(reranker.rank(one.pool).max()) for one in examples]


def _table(name: str, cases: Sequence[Case], scores: Scores) -> Iterable[Figure]:
    langs = {"ko": "ko", "en": "en", "all": None}
    for lang, only in langs.items():
        mask = np.array([only is None or case.labelled.lang == only for case in cases])
        for arm in ARMS:
            for metric in METRICS:
                value = float(scores[arm][metric][mask].mean())
                yield Figure(f"{name}, {lang} (n={int(mask.sum())}), {arm}: {metric}", "", [value])


def _steps(name: str, scores: Scores) -> Iterable[Figure]:
    for worse, better in STEPS:
        for metric in METRICS:
            interval = paired(scores[better][metric], scores[worse][metric])
            goal = "> 0" if better == "reranked" and metric == "nDCG@10" else ""  # the others are no default
            title = f"{name}, {better} over {worse}: {metric} {interval}; lower end"
            yield Figure(title, "", [interval.low], worse, goal)


def figures(rounds: int, arguments: Sequence[str]) -> Iterable[Figure]:
    """Nothing is timed, so nothing is repeated."""
    del rounds
    parser = argparse.ArgumentParser(prog="retrieval")
    parser.add_argument("--catalog", type=Path, default=ROOT / "data/sample/catalog.jsonl")
    parser.add_argument("--choice", type=Path, default=ROOT / "data/sample/questions.jsonl")
    parser.add_argument("--test", type=Path, default=ROOT / "data/sample/test.jsonl")
    parser.add_argument("--weights", type=Path, default=ROOT / "configs/reranker.json")
    parser.add_argument("--chart", type=Path, default=None, help="draw the test set's figures into this file")
    options = parser.parse_args(list(arguments))
    reranker = LinearReranker.from_file(options.weights)
    stored = orjson.loads(options.weights.read_bytes())["weights"]
    weights = np.array([stored[name] for name in FEATURE_NAMES])
    loaded, encoder = load_catalog(options.catalog), load_encoder()
    with tempfile.TemporaryDirectory() as folder:
        build_index(loaded.tools, loaded.version, encoder, Path(folder))
        retriever = Retriever(load_index(Path(folder)), encoder, FusionReranker())
        choice, _ = read(options.choice, retriever)
        test, hopeless = read(options.test, retriever)
    chosen, tested = score(choice, by_fold(choice)), score(test, [weights] * FOLDS)
    yield from _table("test", test, tested)
    yield from _steps("test", tested)
    yield from _steps("choice", chosen)
    for group, interval in ablations(choice, chosen).items():
        yield Figure(f"choice, reranked with {group} over without: nDCG@10 {interval}", "", [interval.mean], "without")
    separated = auc(best_scores(reranker, (case.labelled for case in test)), best_scores(reranker, hopeless))
    yield Figure(
        f"test, AUC of the best score: a tool suits (n={len(test)}) or none (n={len(hopeless)})", "", [separated]
    )
    if options.chart is not None:
        from tests.bench.retrieval.chart import draw

        draw(options.chart, {arm: {name: tested[arm][name] for name in METRICS} for arm in ARMS})
        print(f"drawn: {options.chart}", file=sys.stderr)
