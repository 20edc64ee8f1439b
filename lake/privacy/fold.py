"""A text as detectors should see it: obfuscation undone, every character still traceable to the text it came from.

Three views of one text: `plain` (compatibility forms folded, invisible characters gone) for letters, `digits`, where
spaced-out digits and look-alike letters stand as digits too, and `spelled`, where number words do as well. Placeholders
are blanked, so that masking what was masked changes nothing. Pure; offsets always point into the text that was given.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from ko_pii.core.unicode_norm import normalize_unicode

from lake.privacy.triggers import BLANK, FOLDED
from lake.privacy.types import PLACEHOLDER, Span
from lake.privacy.words import HANGUL_DIGIT_VALUES, HANGUL_DIGITS, SPOKEN_DIGIT_VALUES, SPOKEN_DIGITS

MIN_SPELLED = 7  # digits in a row before spelled ones count as digits: fewer are ordinary words

_SPELLED = re.compile(
    rf"[{HANGUL_DIGITS}\d](?:[ \-.,·/~]{{0,2}}(?:에|의|다시|하이픈|대시)?[ ]?[{HANGUL_DIGITS}\d]){{{MIN_SPELLED},}}"
)
_PARTICLE = re.compile("이(?=[가-힣])")  # "...칠팔이고": is it a two, or a particle? Both are tried.
_SPOKEN = re.compile(
    rf"(?<![A-Za-z])(?:{SPOKEN_DIGITS})(?:[ ,\-]{{1,3}}(?:{SPOKEN_DIGITS})){{{MIN_SPELLED - 1},}}(?![A-Za-z])",
    re.IGNORECASE,
)
_SPOKEN_DIGIT = re.compile(SPOKEN_DIGITS, re.IGNORECASE)
_FILLER = re.compile("에|의|다시|하이픈|대시")


@dataclass(frozen=True, slots=True)
class View:
    """`text` to search in; `starts[i]` is where its character `i` begins in the source. Empty: offsets are the same."""

    text: str
    starts: list[int]
    source_length: int

    def to_source(self, start: int, end: int, kind: str) -> Span:
        """A found span in offsets of the source; it takes in whatever invisible characters lie within."""
        if not self.starts:
            return Span(start, end, kind)
        last = self.starts[end - 1]
        after = bisect_right(self.starts, last)
        return Span(self.starts[start], self.starts[after] if after < len(self.starts) else self.source_length, kind)


@dataclass(frozen=True, slots=True)
class Views:
    """The views of one text; `digits` is `plain` where nothing was disguised, `spelled` is empty where nothing was."""

    plain: View
    digits: View
    spelled: tuple[View, ...]


def blank(match: re.Match[str]) -> str:
    """As many blanks as the match has characters, so that offsets stay."""
    return BLANK * len(match.group())


def views(text: str, spelled: bool) -> Views:
    """All views of `text`, its placeholders blanked; `spelled`: look for spelled and spaced digits as well."""
    source = PLACEHOLDER.sub(blank, text)
    plain = View(source, [], len(text))
    if FOLDED.search(source):
        plain = View(*normalize_unicode(source, fold_numeric=False), len(text))
    if not spelled:
        return Views(plain, plain, ())
    digits, starts = normalize_unicode(plain.text)
    if digits == plain.text:
        numbers = plain
    else:
        at = starts or range(len(digits))
        numbers = View(digits, [plain.starts[start] for start in at] if plain.starts else list(starts), len(text))
    readings: list[View] = []
    for particle in (False, True):
        view = _spell(_spell(numbers, _SPELLED, _hangul_digits, particle), _SPOKEN, _spoken_digits)
        if view is not numbers and view not in readings:
            readings.append(view)
    return Views(plain, numbers, tuple(readings))


def _hangul_digits(run: str) -> list[tuple[int, str]] | None:
    """Position and character of what a run of digits reads as; None where nothing in it was spelled."""
    if not any(char in HANGUL_DIGIT_VALUES for char in run):
        return None
    out: list[tuple[int, str]] = []
    at = 0
    while at < len(run):
        filler = _FILLER.match(run, at)
        if filler:
            out.append((at, "-"))
            at = filler.end()
        else:
            out.append((at, HANGUL_DIGIT_VALUES.get(run[at], run[at])))
            at += 1
    return out


def _spoken_digits(run: str) -> list[tuple[int, str]]:
    return [(word.start(), SPOKEN_DIGIT_VALUES[word.group().lower()]) for word in _SPOKEN_DIGIT.finditer(run)]


def _spell(
    view: View, runs: re.Pattern[str], read: Callable[[str], list[tuple[int, str]] | None], particle: bool = False
) -> View:
    """`view` with each run of spelled digits written in digits; `particle`: without a last one that may be none."""
    pieces: list[str] = []
    starts: list[int] = []
    at = 0
    for run in runs.finditer(view.text):
        end = run.end() - (1 if particle and _PARTICLE.match(view.text, run.end() - 1) else 0)
        written = read(view.text[run.start() : end])
        if written is None:
            continue
        pieces += [view.text[at : run.start()], *(char for _, char in written)]
        starts += [*range(at, run.start()), *(run.start() + offset for offset, _ in written)]
        at = end
    if not pieces:
        return view
    pieces.append(view.text[at:])
    starts += range(at, len(view.text))
    if view.starts:
        starts = [view.starts[start] for start in starts]
    return View("".join(pieces), starts, view.source_length)
