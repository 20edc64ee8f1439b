"""An answer may name only tools and URLs that its prompt showed. Pure.

`ungrounded`: it names a tool or a URL that was not there. `not_retrieved`: the right tool was not among what
was retrieved, so the prompt could not have led to this answer (a fault of the retriever, not of the answer).
`not_shown`: it was retrieved, but the token budget left it out of the prompt. A wrong link of a rightly named tool
can be `repaired`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from lake import house_style
from lake.rules.clean import KEEP, Verdict
from lake.schemas.records import RetrievedItem
from lake.spotlight import clean_url, find_urls, one_line

MIN_NAME_CHARS = 3  # shorter names (R, Go, C) are words of other texts too often to be sought in free text
_SENTENCE_SIGNS = ".,;:!?。、"
_BEFORE = re.compile(r"[0-9A-Za-z가-힣_.-]")  # what may not stand right before a name
_AFTER = re.compile(r"[0-9A-Za-z_]")


def comparable_name(name: str) -> str:
    """One line, case folded: names that differ only so are the same."""
    return one_line(name).casefold()


def comparable_url(url: str) -> str:
    """Comparable form: scheme and host in lower case, no slash at the end."""
    bare = clean_url(url).rstrip("/").rstrip(_SENTENCE_SIGNS)
    scheme, separator, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}{separator}{host.lower()}{slash}{path}" if separator else bare


def called(items: Iterable[RetrievedItem], name: str) -> list[RetrievedItem]:
    """Those of `items` that bear the name."""
    return [item for item in items if comparable_name(item.name) == comparable_name(name)]


class NameFinder:
    """Finds names as whole words, case as written; Korean particles may follow a name directly.

    At each place the longest name wins (`Google Docs` is not `Google`). One dictionary look-up a character, however
    many names there are: a catalogue of 900,000 is looked through as fast as one of 200.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(line for name in names if len(line := one_line(name)) >= MIN_NAME_CHARS)
        lengths: dict[str, set[int]] = {}
        for name in self.names:
            lengths.setdefault(name[:MIN_NAME_CHARS], set()).add(len(name))
        self._lengths = {head: sorted(found, reverse=True) for head, found in lengths.items()}

    def find(self, text: str) -> set[str]:
        """The names that occur in `text`."""
        line, found, place = one_line(text), set[str](), 0
        while place < len(line) - MIN_NAME_CHARS + 1:
            length = self._at(line, place)
            if length:
                found.add(line[place : place + length])
            place += length or 1
        return found

    def _at(self, line: str, place: int) -> int:
        lengths = self._lengths.get(line[place : place + MIN_NAME_CHARS])
        if lengths is None or (place and _BEFORE.match(line[place - 1])):
            return 0
        for length in lengths:
            end = place + length
            fits = line[place:end] in self.names and not (end < len(line) and _AFTER.match(line[end]))
            if fits and end <= len(line):
                return length
        return 0


_finder = lru_cache(maxsize=4)(NameFinder)


def named_tools(text: str, names: Iterable[str] | NameFinder) -> set[str]:
    """The names that occur in `text`, longest match first."""
    finder = names if isinstance(names, NameFinder) else _finder(tuple(names))
    return finder.find(text)


def right_tool(tools: Sequence[str], retrieved: Sequence[RetrievedItem], shown_ids: Sequence[str]) -> Verdict:
    """One of the label's own `tools` (ids; none means that no tool suits) must stand in the prompt."""
    if not tools or set(tools) & set(shown_ids):
        return KEEP
    return False, "not_shown" if set(tools) & {item.id for item in retrieved} else "not_retrieved"


def grounded(
    answer: str,
    retrieved: Sequence[RetrievedItem],
    shown_ids: Sequence[str],
    prompt_text: str,
    known_names: Iterable[str] | NameFinder = (),
) -> Verdict:
    """Whether `answer` names only what `prompt_text` showed; `known_names` are all of the catalogue.

    In house style the name must be a shown tool's and the link that tool's own. In any other text a shown
    tool must be named. In both every URL must be a shown one, and no other known tool may be named, unless
    the prompt (or the question in it) names it too.
    """
    shown = [item for item in retrieved if item.id in set(shown_ids)]
    urls = {comparable_url(item.url) for item in shown if item.url}
    if any(comparable_url(found) not in urls for found in find_urls(answer)):
        return False, "ungrounded"
    parsed = house_style.parse(answer)
    if parsed is not None and parsed.name is not None:
        own = called(shown, parsed.name)
        if not own:
            return False, "not_shown" if called(retrieved, parsed.name) else "ungrounded"
        if parsed.url is not None and comparable_url(parsed.url) not in {comparable_url(item.url) for item in own}:
            return False, "ungrounded"
    elif parsed is None and not any(
        comparable_name(item.name) in comparable_name(answer) for item in shown if item.name
    ):
        return False, "ungrounded"
    shown_names = {one_line(item.name) for item in shown}
    foreign = named_tools(answer, known_names) - shown_names
    return (False, "ungrounded") if any(name not in prompt_text for name in foreign) else KEEP


def repaired(answer: str, retrieved: Sequence[RetrievedItem], shown_ids: Sequence[str]) -> tuple[str, list[str]]:
    """`answer` with the wrong link of a rightly named tool put right, and what was repaired (`url`, or nothing).

    Only where there is no doubt: in house style, one shown tool bears the name and has an address; in other text,
    one shown tool is named, and none of the addresses is another shown tool's.
    """
    shown = [item for item in retrieved if item.id in set(shown_ids)]
    parsed = house_style.parse(answer)
    if parsed is not None:
        own = called(shown, parsed.name) if parsed.name else []
        if parsed.url is None or len(own) != 1 or not own[0].url:
            return answer, []
        if comparable_url(parsed.url) == comparable_url(own[0].url):
            return answer, []
        return house_style.render(parsed.lang, parsed.name, parsed.reason, clean_url(own[0].url)), ["url"]
    named = [item for item in shown if item.name and comparable_name(item.name) in comparable_name(answer)]
    shown_urls = {comparable_url(item.url) for item in shown if item.url}
    wrong = [url for url in find_urls(answer) if comparable_url(url) not in shown_urls]
    if len(named) != 1 or not named[0].url or not wrong or len(wrong) != len(find_urls(answer)):
        return answer, []
    for url in sorted(wrong, key=len, reverse=True):  # one may be the beginning of another
        answer = answer.replace(url, clean_url(named[0].url))
    return answer, ["url"]
