"""One text in, the same text with typed placeholders out. The interface of everything that masks.

Invariants: deterministic; masking masked text changes nothing; a text in which nothing is found comes back as the
very object that was given (no silent normalisation); `columns.mask_columns` gives the same, faster. Pure. By hand:
`python -m lake.privacy.mask < file`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from lake.privacy.addresses import address
from lake.privacy.fold import View, blank, views
from lake.privacy.names import english_name, korean_name
from lake.privacy.numbers import business, card, document, resident, social_security
from lake.privacy.online import email, ip, secret
from lake.privacy.phones import account, phone
from lake.privacy.triggers import BITS, EVERY, families
from lake.privacy.types import PLACEHOLDERS, RANK, Span

Detector = Callable[[str], Iterator[Span]]

# Detectors by the families (`triggers.FAMILIES`) that call for them; an odd character calls for all.
_DIGITS = BITS["digits"] | BITS["spelled"]
IN_NUMBERS: tuple[tuple[Detector, int], ...] = (
    (resident, _DIGITS),
    (social_security, _DIGITS),
    (card, _DIGITS),
    (account, _DIGITS | BITS["account"]),
    (business, _DIGITS),
    (phone, _DIGITS),
    (document, _DIGITS | BITS["document"]),
)
IN_LETTERS: tuple[tuple[Detector, int], ...] = (
    (document, BITS["document"]),
    (ip, BITS["ip"]),
    (address, BITS["address"]),
    (korean_name, BITS["name_ko"]),
    (english_name, BITS["name_en"]),
)
ANYWHERE: tuple[tuple[Detector, int], ...] = ((email, BITS["email"]), (secret, BITS["secret"]))

# The numbers in an address are those of pages and products, unless a parameter says otherwise.
_URL = re.compile(r"(?:https?|ftp)://[^\s<>\"'`]+", re.IGNORECASE)
_TELLING = re.compile(
    r"[?&#][a-z_\-]*(?:phone|tel|mobile|cell|hp|rrn|jumin|ssn|card|account|passport|licen[cs]e|name|addr)[a-z_\-]*=",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Masked:
    """A masked text and how many spans of each type went."""

    text: str
    counts: Counter[str] = field(default_factory=Counter[str])


def find(text: str, wanted: int | None = None) -> list[Span]:
    """Every span of personal data in `text`, in order, none overlapping; overlapping finds become one span.

    `wanted`: what `triggers.families(text)` says, where it is known already.
    """
    wanted = families(text) if wanted is None else wanted
    if not wanted:
        return []
    wanted = EVERY if wanted & BITS["odd"] else wanted
    seen = views(text, bool(wanted & BITS["spelled"]))
    found = set(_search(seen.plain, ANYWHERE, wanted))
    found |= set(_search(_without_urls(seen.plain), IN_LETTERS, wanted))
    for view in (seen.digits, *seen.spelled):
        found |= set(_search(_without_urls(view), IN_NUMBERS, wanted))
    return _merge(found)


def mask(text: str, off: Iterable[str] = (), wanted: int | None = None) -> Masked:
    """`text` with personal data replaced, types in `off` left alone. Never raises on any str.

    `wanted`: what `triggers.families(text)` says, where it is known already.
    """
    left = frozenset(off)
    counts: Counter[str] = Counter()
    wanted = families(text) if wanted is None else wanted
    while True:  # what went may have hidden what stood beside it; each round leaves less to find, so it ends
        spans = [span for span in find(text, wanted) if span.kind not in left]
        if not spans:
            return Masked(text, counts)
        pieces: list[str] = []
        at = 0
        for span in spans:
            pieces += [text[at : span.start], PLACEHOLDERS[span.kind]]
            at = span.end
            counts[span.kind] += 1
        text = "".join([*pieces, text[at:]])


def _without_urls(view: View) -> View:
    if "://" not in view.text:
        return view
    text = _URL.sub(lambda url: url.group() if _TELLING.search(url.group()) else blank(url), view.text)
    return View(text, view.starts, view.source_length)


def _search(view: View, detectors: Iterable[tuple[Detector, int]], wanted: int) -> Iterator[Span]:
    for detect, bits in detectors:
        for span in detect(view.text) if bits & wanted else ():
            yield view.to_source(span.start, span.end, span.kind)


def _merge(found: Iterable[Span]) -> list[Span]:
    """Overlapping spans as one that covers them all, called after the first type in the order of precedence."""
    merged: list[Span] = []
    for span in sorted(found, key=lambda span: (span.start, span.end)):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            merged[-1] = Span(last.start, max(last.end, span.end), min(last.kind, span.kind, key=RANK.__getitem__))
        else:
            merged.append(span)
    return merged


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(mask(line).text)
