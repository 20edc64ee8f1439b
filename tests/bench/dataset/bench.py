"""How fast and how well a dataset is made: `make bench NAME=dataset`, or smaller with
`BENCH_ARGS="-- --questions 5000 --large 0"`. Writes nothing but temporary folders.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from tests.bench.dataset import clusters
from tests.bench.run import Figure


def figures(rounds: int, arguments: Sequence[str]) -> Iterable[Figure]:
    """Near-duplicate clusters and the split."""
    parser = argparse.ArgumentParser(prog="dataset")
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000, help="questions of the large split; 0: left out")
    parser.add_argument("--threshold", type=float, default=clusters.THRESHOLD, help="Jaccard similarity")
    options = parser.parse_args(list(arguments))
    yield from clusters.figures(rounds, options.questions, options.large, options.threshold)
