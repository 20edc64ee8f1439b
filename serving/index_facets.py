"""Which tools of an index have a category or a tag: the filters of a search, as small integer arrays.

A name matches whatever its case and Unicode form (NFC, then casefold). Invariant: the same filter gives the
same tools, in the order of the catalogue. Pure numpy, thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lake.schemas.rows import Tool
from lake.text import nfc

Positions = NDArray[np.int64]


def facet_name(text: str) -> str:
    """A category or tag as it is compared."""
    return nfc(text.strip()).casefold()


@dataclass(frozen=True)
class Facets:
    """`categories[category_of[i]]` is tool i's category; its tags are `tag_of[tag_start[i]:tag_start[i + 1]]`."""

    categories: dict[str, int]
    category_of: NDArray[np.int32]  # [n_tools]
    tags: dict[str, int]
    tag_start: NDArray[np.int64]  # [n_tools + 1]
    tag_of: NDArray[np.int32]

    def select(self, categories: Iterable[str] = (), tags: Iterable[str] = ()) -> Positions | None:
        """Rising positions of the tools in one of `categories` (where any is given) that have all of `tags`;
        None: no filter. A name that no tool has matches nothing.
        """
        wanted, needed = {facet_name(name) for name in categories}, {facet_name(name) for name in tags}
        if not wanted and not needed:
            return None
        keep = np.ones(len(self.category_of), dtype=bool)
        if wanted:
            codes = [self.categories[name] for name in wanted if name in self.categories]
            keep &= np.isin(self.category_of, np.array(codes, dtype=np.int32))
        for name in needed:
            keep &= self._having(self.tags.get(name))
        return np.flatnonzero(keep)

    def _having(self, code: int | None) -> NDArray[np.bool_]:
        has = np.zeros(len(self.category_of), dtype=bool)
        if code is not None:
            places = np.flatnonzero(self.tag_of == code)
            has[np.searchsorted(self.tag_start, places, side="right") - 1] = True
        return has


def facets_of(tools: Iterable[Tool]) -> Facets:
    """The facets of a catalogue, in one pass."""
    categories: dict[str, int] = {}
    tags: dict[str, int] = {}
    category_of: list[int] = []
    tag_of: list[int] = []
    sizes: list[int] = [0]
    for tool in tools:
        category_of.append(_code(categories, tool.category))
        own: Sequence[int] = list(dict.fromkeys(_code(tags, tag) for tag in tool.tags))
        tag_of.extend(own)
        sizes.append(len(own))
    return Facets(
        categories,
        np.array(category_of, dtype=np.int32),
        tags,
        np.cumsum(sizes, dtype=np.int64),
        np.array(tag_of, dtype=np.int32),
    )


def _code(codes: dict[str, int], text: str) -> int:
    return codes.setdefault(facet_name(text), len(codes))
