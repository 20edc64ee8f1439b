"""Which tools of an index have a category or a tag, and what words these are made of: small integer arrays.

The filters of a search and two features of the reranker read them. A name matches whatever its case and Unicode form
(NFC, then casefold). Invariant: the same filter gives the same tools, in the order of the catalogue. Thread-safe.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lake.schemas.rows import Tool
from lake.text import nfc
from serving.analysis import words
from serving.mapped import StringTable, StringWriter, sorted_codes

Positions = NDArray[np.int64]
_STRINGS = ("categories", "category_words", "tags", "tag_words")


def facet_name(text: str) -> str:
    """A category or tag as it is compared."""
    return nfc(text.strip()).casefold()


@dataclass(frozen=True)
class Facets:
    """`categories[category_of[i]]` is tool i's category; its tags are `tag_of[tag_start[i]:tag_start[i + 1]]`.
    The two `words` tables hold the terms of each name, a line each.
    """

    categories: StringTable  # sorted
    category_words: StringTable
    category_of: NDArray[np.int32]  # [n_tools]
    tags: StringTable  # sorted
    tag_words: StringTable
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
            codes = [code for name in wanted if (code := self.categories.find(name)) is not None]
            keep &= np.isin(self.category_of, np.array(codes, dtype=np.int32))
        for name in needed:
            keep &= self._having(self.tags.find(name))
        return np.flatnonzero(keep)

    def _having(self, code: int | None) -> NDArray[np.bool_]:
        has = np.zeros(len(self.category_of), dtype=bool)
        if code is not None:
            places = np.flatnonzero(self.tag_of == code)
            has[np.searchsorted(self.tag_start, places, side="right") - 1] = True
        return has

    def category_terms(self, position: int) -> frozenset[str]:
        """Content words of the tool's category."""
        return _lines(self.category_words[int(self.category_of[position])])

    def tag_terms(self, position: int) -> list[frozenset[str]]:
        """Content words of each of the tool's tags."""
        codes = self.tag_of[self.tag_start[position] : self.tag_start[position + 1]]
        return [_lines(self.tag_words[code]) for code in codes.tolist()]


class FacetWriter:
    """Collects the facets of tools, one after another, and writes them."""

    def __init__(self) -> None:
        self._categories: dict[str, int] = {}
        self._tags: dict[str, int] = {}
        self._category_of, self._tag_of, self._sizes = array("i"), array("i"), array("i")

    def add(self, tool: Tool) -> None:
        """The next tool of the catalogue."""
        self._category_of.append(_code(self._categories, tool.category))
        own = dict.fromkeys(_code(self._tags, tag) for tag in tool.tags)
        self._tag_of.extend(own)
        self._sizes.append(len(own))

    def write(self, strings: StringWriter) -> dict[str, NDArray[Any]]:
        """Names and words go into `strings`; the arrays that `read_facets` needs are returned."""
        categories, new_categories = sorted_codes(self._categories)
        tags, new_tags = sorted_codes(self._tags)
        return {
            "categories": strings.add(categories),
            "category_words": strings.add("\n".join(words(name)) for name in categories),
            "category_of": new_categories[np.array(self._category_of, dtype=np.int64)].astype(np.int32),
            "tags": strings.add(tags),
            "tag_words": strings.add("\n".join(words(name)) for name in tags),
            "tag_start": np.concatenate([[0], np.cumsum(self._sizes, dtype=np.int64)]),
            "tag_of": new_tags[np.array(self._tag_of, dtype=np.int64)].astype(np.int32),
        }


def read_facets(data: Any, arrays: dict[str, NDArray[Any]], n_tools: int) -> Facets:
    """The facets again, their names in `data`; raises `ValueError` where the arrays disagree."""
    given: dict[str, Any] = {
        field.name: StringTable(data, arrays[field.name]) if field.name in _STRINGS else arrays[field.name]
        for field in fields(Facets)
    }
    facets = Facets(**given)
    sound = (
        len(facets.category_of) == n_tools
        and len(facets.tag_start) == n_tools + 1
        and int(facets.tag_start[0]) == 0
        and int(facets.tag_start[-1]) == len(facets.tag_of)
        and bool((np.diff(facets.tag_start) >= 0).all())
        and len(facets.categories) == len(facets.category_words) > int(facets.category_of.max(initial=-1))
        and len(facets.tags) == len(facets.tag_words) > int(facets.tag_of.max(initial=-1))
        and min(int(facets.category_of.min(initial=0)), int(facets.tag_of.min(initial=0))) >= 0
    )
    if not sound:
        raise ValueError("the facets do not fit together")
    return facets


def _code(codes: dict[str, int], text: str) -> int:
    return codes.setdefault(facet_name(text), len(codes))


def _lines(text: str) -> frozenset[str]:
    return frozenset(text.split("\n")) if text else frozenset()
