"""The arms of the retrieval bench side by side, with 95 % bootstrap intervals, as SVG or PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tests.bench.retrieval.scores import paired

_COLOURS = {"lexical": "#b8c4d6", "dense": "#7f9cc4", "hybrid": "#4a73ad", "reranked": "#1d4a8a"}


def draw(path: Path, scores: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> None:
    """`scores`: arm → metric → one value a question. The file's ending decides the format."""
    arms, metrics = list(scores), list(next(iter(scores.values())))
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(arms)
    for number, arm in enumerate(arms):
        means = [paired(values, np.zeros_like(values)) for values in scores[arm].values()]
        at = np.arange(len(metrics)) + (number - (len(arms) - 1) / 2) * width
        heights = [one.mean for one in means]
        errors = [[one.mean - one.low for one in means], [one.high - one.mean for one in means]]
        axes.bar(at, heights, width * 0.94, color=_COLOURS.get(arm, "#888888"), label=arm, yerr=errors, capsize=2)
        for x, height in zip(at, heights, strict=True):
            axes.text(x, 0.02, f"{height:.2f}", ha="center", va="bottom", fontsize=8, color="white")
    count = len(next(iter(scores[arms[0]].values())))
    axes.set_xticks(np.arange(len(metrics)), metrics)
    axes.set_ylim(0, 1)
    axes.set_title(f"{count} held-out questions, sample catalogue; bars: 95 % bootstrap interval", fontsize=10)
    axes.legend(frameon=False, ncols=len(arms), loc="upper center", bbox_to_anchor=(0.5, -0.08), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
