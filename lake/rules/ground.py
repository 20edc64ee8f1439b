"""An answer may name only tools and URLs that its prompt showed. Pure.

`ungrounded`: it names a tool or a URL that was not there. `not_retrieved`: the right tool was not among what
was retrieved, so the prompt could not have led to this answer. `not_shown`: it was retrieved, but the token
budget left it out of the prompt.
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


def comparable_name(name: str) -> str:
    """One line, case folded: names that differ only so are the same."""
    return one_line(name).casefold()


def comparable_url(url: str) -> str:
    """Comparable form: scheme and host in lower case, no slash at the end."""
    bare = clean_url(url).rstrip("/").rstrip(_SENTENCE_SIGNS)
    scheme, separator, rest = bare.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}{separator}{host.lower()}{slash}{path}" if separator else bare


@lru_cache(maxsize=64)
def _name_pattern(names: tuple[str, ...]) -> re.Pattern[str] | None:
    """Finds names as whole words, case as written; Korean particles may follow a name directly."""
    usable = sorted({one_line(name) for name in names if len(one_line(name)) >= MIN_NAME_CHARS}, key=len)
    if not usable:
        return None
    body = "|".join(re.escape(name) for name in reversed(usable))
    return re.compile(rf"(?<![0-9A-Za-z가-힣_.-])(?:{body})(?![0-9A-Za-z_])")


def named_tools(text: str, names: Iterable[str]) -> set[str]:
    """The names that occur in `text`, longest match first (`Google Docs` is not `Google`)."""
    pattern = _name_pattern(tuple(sorted(names)))
    return {match.group() for match in pattern.finditer(one_line(text))} if pattern else set()


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
    known_names: Iterable[str] = (),
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
        own = [item for item in shown if comparable_name(item.name) == comparable_name(parsed.name)]
        if not own:
            elsewhere = any(comparable_name(item.name) == comparable_name(parsed.name) for item in retrieved)
            return False, "not_shown" if elsewhere else "ungrounded"
        if parsed.url is not None and comparable_url(parsed.url) not in {comparable_url(item.url) for item in own}:
            return False, "ungrounded"
    elif parsed is None and not any(
        comparable_name(item.name) in comparable_name(answer) for item in shown if item.name
    ):
        return False, "ungrounded"
    shown_names = {one_line(item.name) for item in shown}
    foreign = named_tools(answer, known_names) - shown_names
    return (False, "ungrounded") if any(name not in prompt_text for name in foreign) else KEEP
