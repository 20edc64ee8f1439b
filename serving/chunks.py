"""Cuts catalogue entries into the passages that are embedded and matched. Pure.

A tool gives at least one passage: its description in each language, long ones in pieces of whole sentences,
and one passage of its name, aliases and tags. Invariant: passages depend on the tool alone, so that their
vectors can be cached by content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lake.schemas.rows import Tool
from lake.text import detect_lang

Kind = Literal["ko", "en", "names"]
KINDS: tuple[Kind, ...] = ("ko", "en", "names")
MAX_CHUNK_CHARS = 600  # about 300 tokens of Korean, well below the 512 of E5-type models

_SENTENCE_END = re.compile(r"(?<=[.!?。])\s+|\n+")


@dataclass(frozen=True, slots=True)
class Chunk:
    """One passage. `text` is shown and logged."""

    tool: int  # position in the index's list of tools
    kind: Kind
    text: str

    def embedded(self, tool: Tool) -> str:
        """What is embedded: a piece of a description says whose it is."""
        return self.text if self.kind == "names" else f"{tool.name}: {self.text}"


def split_text(text: str, max_chars: int = MAX_CHUNK_CHARS) -> list[str]:
    """Pieces of whole sentences of at most `max_chars`; a longer sentence is cut between words, if it has
    any.
    """
    pieces: list[str] = []
    current = ""
    for sentence in _SENTENCE_END.split(text.strip()):
        for part in _fit(sentence.strip(), max_chars):
            if current and len(current) + 1 + len(part) > max_chars:
                pieces.append(current)
                current = part
            else:
                current = f"{current} {part}".strip()
    if current:
        pieces.append(current)
    return pieces


def _fit(sentence: str, max_chars: int) -> Iterable[str]:
    while len(sentence) > max_chars:
        cut = sentence.rfind(" ", max_chars // 2, max_chars)
        cut = cut if cut > 0 else max_chars
        yield sentence[:cut].rstrip()
        sentence = sentence[cut:].lstrip()
    if sentence:
        yield sentence


def chunk_tool(position: int, tool: Tool) -> list[Chunk]:
    """All passages of one tool, descriptions first."""
    texts: dict[Literal["ko", "en"], str] = {}
    if tool.description_ko:
        texts["ko"] = tool.description_ko
    if tool.description_en:
        texts["en"] = tool.description_en
    if not texts and tool.description:
        texts[detect_lang(tool.description)] = tool.description
    chunks: list[Chunk] = []
    for kind, text in texts.items():
        chunks.extend(Chunk(position, kind, piece) for piece in split_text(text))
    names = ", ".join(dict.fromkeys([tool.name, *tool.aliases, *tool.tags]))
    chunks.extend(Chunk(position, "names", piece) for piece in split_text(names)[:1])
    return chunks
