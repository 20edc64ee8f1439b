"""Which tools and addresses an answer names: in house style by its name line, else wherever the text has
them. Pure.

The base model does not know the house style; scanning free text keeps the comparison fair to it. Invariant:
the same text gives the same reading for every model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lake import house_style
from lake.schemas.rows import Tool
from lake.text import nfc

_URL = re.compile(r"https?://[^\s<>\"'`)\]}，。]+", re.IGNORECASE)
_REFUSALS = re.compile(
    r"적합한\s*도구[가는]?\s*없|맞는\s*도구[가는]?\s*없|도구[가는]?\s*없습니다|추천할\s*(?:만한\s*)?도구[가는]?\s*없"
    r"|no suitable tool|none of the (?:listed|retrieved|above)?\s*tools|there is no (?:suitable )?tool",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer says. `recommended` is an id, or None; `unknown_name` a recommended name of no known
    tool.
    """

    house: bool
    refused: bool
    recommended: str | None
    named: tuple[str, ...]  # ids in order of first mention, each once
    unknown_name: bool
    urls: tuple[str, ...]  # normalised


def normal_url(url: str) -> str:
    """For comparison: no scheme, no `www.`, no slash or full stop at the end; the host in lower case."""
    rest = re.sub(r"^https?://", "", url.strip().rstrip(".,;:!?"), flags=re.IGNORECASE)
    host, slash, path = rest.partition("/")
    return (host.lower().removeprefix("www.") + slash + path).rstrip("/")


class ToolNames:
    """Names and aliases of a catalogue (and of what was retrieved), to be found in answers."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        self.urls = {tool.id: normal_url(tool.url) for tool in tools if tool.url}
        self._by_name: dict[str, str] = {}
        for tool in tools:  # names first: an alias never takes another tool's name
            self._by_name.setdefault(_fold(tool.name), tool.id)
        for tool in tools:
            for alias in tool.aliases:
                self._by_name.setdefault(_fold(alias), tool.id)
        found = sorted((name for name in self._by_name if name), key=len, reverse=True)
        # Latin names need word borders (Go, R, Slack); after a Hangul name a particle may follow
        parts = [_bordered(name) for name in found]
        self._pattern = re.compile("|".join(parts), re.IGNORECASE) if parts else None

    def lookup(self, name: str) -> str | None:
        """The id of exactly this name or alias."""
        return self._by_name.get(_fold(name))

    def scan(self, text: str) -> tuple[str, ...]:
        """Ids named anywhere in `text` outside of addresses, longest names first where they overlap."""
        if self._pattern is None:
            return ()
        plain = _URL.sub(" ", nfc(text))
        found = (self._by_name[_fold(match.group())] for match in self._pattern.finditer(plain))
        return tuple(dict.fromkeys(found))

    def read(self, answer: str) -> Reading:
        """Everything that the metrics ask of an answer."""
        text = nfc(answer)
        urls = tuple(dict.fromkeys(normal_url(url) for url in _URL.findall(text)))
        parsed = house_style.parse(text)
        if parsed is not None:
            one = self.lookup(parsed.name) if parsed.name is not None else None
            unknown = parsed.name is not None and one is None
            return Reading(True, parsed.name is None, one, (one,) if one else (), unknown, urls)
        named = self.scan(text)
        refused = not named and bool(_REFUSALS.search(text))
        return Reading(False, refused, named[0] if named else None, named, False, urls)


def _fold(name: str) -> str:
    return re.sub(r"\s+", " ", nfc(name).strip()).casefold()


def _bordered(name: str) -> str:
    text = re.escape(name).replace(r"\ ", r"\s+")
    before = r"(?<![a-z0-9])" if name[0].isascii() else r"(?<![\uac00-\ud7a3a-z0-9])"
    after = r"(?![a-z0-9])" if name[-1].isascii() else ""
    return before + text + after
