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
from lake.privacy.names import name
from lake.privacy.numbers import business, card, document, resident
from lake.privacy.online import email, ip, secret
from lake.privacy.phones import account, phone
from lake.privacy.triggers import could_hold
from lake.privacy.types import PLACEHOLDERS, RANK, Span

Detector = Callable[[str], Iterator[Span]]

IN_NUMBERS: tuple[Detector, ...] = (resident, card, account, business, phone, document)
IN_LETTERS: tuple[Detector, ...] = (document, ip, address, name)
ANYWHERE: tuple[Detector, ...] = (email, secret)

# Scheme, host and path of an address hold product numbers, not people's; what stands behind `?` or `#` may.
_URL = re.compile(r"(?:https?|ftp)://[^\s<>\"'`?#@]+(?![^\s/?#]*@)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Masked:
    """A masked text and how many spans of each type went."""

    text: str
    counts: Counter[str] = field(default_factory=Counter[str])


def find(text: str) -> list[Span]:
    """Every span of personal data in `text`, in order, none overlapping; overlapping finds become one span."""
    if not could_hold(text):
        return []
    seen = views(text)
    found = set(_search(seen.plain, ANYWHERE))
    found |= set(_search(_without_urls(seen.plain), IN_LETTERS))
    for view in {id(view): view for view in (seen.digits, seen.spelled)}.values():
        found |= set(_search(_without_urls(view), IN_NUMBERS))
    return _merge(found)


def mask(text: str, off: Iterable[str] = ()) -> Masked:
    """`text` with personal data replaced, types in `off` left alone. Never raises on any str."""
    left = frozenset(off)
    counts: Counter[str] = Counter()
    while True:  # a placeholder may be the context of what follows; each round leaves less to find, so it ends
        spans = [span for span in find(text) if span.kind not in left]
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
    return View(_URL.sub(blank, view.text), view.starts, view.source_length) if "://" in view.text else view


def _search(view: View, detectors: Iterable[Detector]) -> Iterator[Span]:
    for detect in detectors:
        for span in detect(view.text):
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
