"""Tool names found in a text, out of catalogues of any size: as hashes, 8 bytes a name.

A name counts where it stands as a whole word, as written; a Korean particle may follow it (as in `lake.rules.ground`,
whose finder keeps the names themselves, a hundred bytes each). The longest name wins (`Google Docs` is not `Google`).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from lake.rules.ground import MIN_NAME_CHARS
from lake.schemas.rows import Tool
from lake.spotlight import one_line

MAX_NAME_CHARS = 60


def _in_word(char: str) -> bool:
    return (char.isascii() and char.isalnum()) or char in "_.-" or "가" <= char <= "힣"


class CatalogNames:
    """Names and aliases of all tools. Hashes are this process's own: not to be stored."""

    def __init__(self, hashes: npt.NDArray[np.int64]) -> None:
        self._hashes = hashes

    @classmethod
    def of(cls, tools: Iterable[Tool]) -> CatalogNames:
        found = NameHashes()
        for tool in tools:
            found.add(tool)
        return found.build()

    def found(self, text: str) -> set[str]:
        """The names that stand in `text`."""
        line = one_line(text)
        spans = [
            (start, end)
            for start in range(len(line))
            if not line[start].isspace() and (start == 0 or not _in_word(line[start - 1]))
            for end in range(min(len(line), start + MAX_NAME_CHARS), start + MIN_NAME_CHARS - 1, -1)
            if end == len(line) or not (line[end] == "_" or (line[end].isascii() and line[end].isalnum()))
        ]
        if not spans or not len(self._hashes):
            return set()
        wanted = np.fromiter((hash(line[start:end]) for start, end in spans), dtype=np.int64, count=len(spans))
        places = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        names: set[str] = set()
        reached = 0
        for (start, end), known in zip(spans, (self._hashes[places] == wanted).tolist(), strict=True):
            if known and start >= reached:  # longest first at each start
                names.add(line[start:end])
                reached = end
        return names

    def others(self, text: str, own: Iterable[Tool]) -> set[str]:
        """Names in `text` that are none of `own`'s."""
        known = {one_line(name) for tool in own for name in (tool.name, *tool.aliases)}
        return self.found(text) - known


class NameHashes:
    """Collects the names of a pass over the catalogue."""

    def __init__(self) -> None:
        self._found = array("q")

    def add(self, tool: Tool) -> None:
        """Its name and aliases."""
        for name in (tool.name, *tool.aliases):
            line = one_line(name)
            if MIN_NAME_CHARS <= len(line) <= MAX_NAME_CHARS:
                self._found.append(hash(line))

    def build(self) -> CatalogNames:
        """What was collected, ready to be searched."""
        return CatalogNames(np.unique(np.frombuffer(self._found, dtype=np.int64)))
