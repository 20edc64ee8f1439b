"""Which catalogue entries a synthesis asks about: seeded, spread over the categories, in one pass over any size.

900,000 tools cost some 40 bytes each here and none of their texts: hashes of the names, a number for the category, a
seeded draw. Same tools and seed, same choice, whatever the order of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from flows.steps.synthesis_names import CatalogNames, NameHashes
from lake.rules.split import draw
from lake.schemas.rows import Tool
from lake.spotlight import one_line

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Survey:
    """What one pass over the catalogue leaves."""

    tools: Sequence[Tool]
    names: CatalogNames
    categories: list[str]  # as written in their first tool, largest first
    asked_first: I64  # positions of the tools in the order in which they are asked
    _grouped: I64  # positions by category, within it by draw
    _place: I64  # where each position stands in `_grouped`
    _bounds: I64  # of each category in `_grouped`
    _category: I64  # of each position

    def partner(self, position: int) -> Tool | None:
        """The next tool of the same category, by draw and round in a circle; None where it is alone."""
        category = int(self._category[position])
        start, end = int(self._bounds[category]), int(self._bounds[category + 1])
        if end - start < 2:
            return None
        following = start + (int(self._place[position]) - start + 1) % (end - start)
        return self.tools[int(self._grouped[following])]


def survey(tools: Sequence[Tool], seed: int) -> Survey:
    """One pass over the tools: the first of every category is asked first, then the second of every one, and so on,
    each time by draw.
    """
    codes: dict[str, int] = {}
    labels: list[str] = []
    names = NameHashes()
    category = np.zeros(len(tools), dtype=np.int64)
    draws = np.zeros(len(tools), dtype=np.float64)
    for position, tool in enumerate(tools):
        label = one_line(tool.category)
        code = codes.setdefault(label.casefold(), len(codes))
        if code == len(labels):
            labels.append(label)
        category[position] = code
        draws[position] = draw(seed, tool.id)
        names.add(tool)
    grouped = np.lexsort((draws, category))
    place = np.empty_like(grouped)
    place[grouped] = np.arange(len(grouped))
    sizes = np.bincount(category, minlength=len(labels))
    bounds = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    rank = place - bounds[category]
    by_size = sorted(range(len(labels)), key=lambda code: (-int(sizes[code]), labels[code]))
    return Survey(
        tools,
        names.build(),
        [labels[code] for code in by_size if labels[code]],
        np.lexsort((draws, rank)),
        grouped,
        place,
        bounds,
        category,
    )
