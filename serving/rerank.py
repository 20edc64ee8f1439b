"""Orders candidates: a small learned linear model by default, a CrossEncoder where one is set, or plain
fusion.

The linear model's weights are `configs/reranker.json`, written by `python -m serving.rerank fit` from
labelled questions (`rerank_fit.py`); serving needs numpy only. Invariant: `rank` returns one number in 0..1 a
candidate, higher is better; for the learned model it is the calibrated chance that the tool is right.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from lake.errors import ModelMissingError
from serving.candidates import Candidates
from serving.features import FEATURE_NAMES, FEATURES_VERSION

_RRF_K = 60  # Cormack, Clarke and Buettcher 2009


class Reranker(Protocol):
    """Gives each candidate its final score."""

    name: str

    def rank(self, candidates: Candidates) -> NDArray[np.float64]:
        """float64 [n] in 0..1, in the order of `candidates.positions`."""
        ...


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(values, -60, 60)))


class FusionReranker:
    """Reciprocal rank fusion of the three rankings, scaled to 0..1. Needs no fitting."""

    name = "none"

    def rank(self, candidates: Candidates) -> NDArray[np.float64]:
        scores = candidates.scores
        total = np.zeros(len(candidates.tools))
        for ranking in (scores.dense, scores.words, scores.grams):
            places = np.empty(len(ranking))
            places[np.argsort(-ranking, kind="stable")] = np.arange(1, len(ranking) + 1)
            total += 1 / (_RRF_K + places)
        return total * (_RRF_K + 1) / 3


class LinearReranker:
    """sigmoid(slope * (weights . features) + intercept); monotone in the weighted sum that was fitted to
    rank.
    """

    name = "linear"

    def __init__(self, weights: NDArray[np.float64], slope: float, intercept: float) -> None:
        if weights.shape != (len(FEATURE_NAMES),) or not np.isfinite(weights).all() or not slope > 0:
            raise ValueError("the weights do not fit the features")
        self._weights = weights
        self._slope = slope
        self._intercept = intercept

    @classmethod
    def from_file(cls, path: Path) -> LinearReranker:
        """Raises `ModelMissingError` where the file is missing, or was fitted on other features."""
        fit = f"Fit it again: python -m serving.rerank fit --out {path}"
        try:
            stored = orjson.loads(path.read_bytes())
            if stored["features_version"] != FEATURES_VERSION:
                raise ValueError(f"it was fitted for {stored['features_version']}, this is {FEATURES_VERSION}")
            weights = np.array([float(stored["weights"][name]) for name in FEATURE_NAMES])
            return cls(weights, float(stored["slope"]), float(stored["intercept"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelMissingError(f"The reranker {path} can't be used ({error}). {fit}") from error

    def rank(self, candidates: Candidates) -> NDArray[np.float64]:
        return _sigmoid(self._slope * (candidates.features @ self._weights) + self._intercept)


class CrossEncoderReranker:
    """A sentence-transformers CrossEncoder over the best candidates of the linear model; the others keep
    their order below them. Thread-safe.
    """

    def __init__(self, name: str, first: Reranker, candidates: int = 20, *, allow_hub: bool = False) -> None:
        from sentence_transformers import CrossEncoder

        try:
            self._model: Any = CrossEncoder(name, trust_remote_code=False, local_files_only=not allow_hub)
        except (OSError, ValueError) as error:
            raise ModelMissingError(
                f"The CrossEncoder {name!r} can't be loaded ({str(error).splitlines()[0]}): set MULLE_RERANKER to "
                "a folder with one, or MULLE_RERANKER=linear.",
                reranker=name,
            ) from error
        self.name = name
        self._first = first
        self._candidates = candidates
        self._lock = threading.Lock()

    def rank(self, candidates: Candidates) -> NDArray[np.float64]:
        import torch

        first = self._first.rank(candidates)
        best = np.argsort(-first, kind="stable")[: self._candidates]
        pairs = [
            (candidates.question, f"{candidates.tools[i].name}: {candidates.passages[i].text}") for i in best.tolist()
        ]
        with self._lock:
            raw = self._model.predict(pairs, activation_fn=torch.nn.Sigmoid(), show_progress_bar=False)
        scores = first * 1e-6  # below every candidate that the model has read
        scores[best] = np.clip(np.asarray(raw, dtype=np.float64), 1e-6, 1.0)
        return scores


def load_reranker(
    kind: str, weights_file: Path, *, cross_encoder_candidates: int = 20, allow_hub: bool = False
) -> Reranker:
    """`linear`, `none`, or the name or folder of a CrossEncoder. Raises `ModelMissingError`."""
    if kind == "none":
        return FusionReranker()
    linear = LinearReranker.from_file(weights_file)
    if kind == "linear":
        return linear
    return CrossEncoderReranker(kind, linear, cross_encoder_candidates, allow_hub=allow_hub)


if __name__ == "__main__":
    from serving.rerank_fit import main

    raise SystemExit(main())
