"""Names of people, where the words around say that it is one: a label, a title, an introduction, a signature. Pure.

ko-pii's own name detector scores any two to four syllables that start like a surname; on the sample catalogue it
takes 188 ordinary words for names, and a dataset about tools can't lose those. So the context must say "person", and
ko-pii's dictionaries of surnames and common words only veto. What has no such context is missed: see docs/privacy.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ko_pii.dictionaries.common_words import is_common_word
from ko_pii.dictionaries.field_labels import is_field_label
from ko_pii.dictionaries.titles import is_title

from lake.privacy.types import Span
from lake.privacy.words import (
    FIRST_NAMES,
    GIVEN,
    NAME_LABELS_KO,
    NOT_NAMES,
    SURNAMES,
    SURNAMES_LATIN,
    SURNAMES_LATIN_CLEAR,
    TITLES,
)

_NAME = rf"(?:{SURNAMES})[ ]?[{GIVEN}](?:[ ]?[{GIVEN}])?"
_PARTICLES = (
    "이고|이며|이라|이야|입니다|이에요|예요|이구요|이요|이|은|는|가|을|를|의|에게|한테|께|와|과|도|님|씨|으로|로"
    "|랑|하고|라고|인데"
    "|이랑|야|고요|이었|였"
)
_AFTER = rf"(?=$|[^가-힣]|(?:{_PARTICLES})(?![가-힣]{{3}}))"
_LABEL = re.compile(
    rf"(?:{NAME_LABELS_KO})(?P<mark>(?:[ ]?(?:은|는|이|가|란|칸에|란에|에는|에|을|를)(?=[ :：]))?"
    rf"[ ]?[:：=\-\"'“‘(\[]?[ ]?)({_NAME}){_AFTER}"
)
_INTRO = re.compile(
    r"(?:저는|나는|제가|전|저|제 이름은|내 이름은|[가-힣]{1,10}(?:팀|부|과|실|센터|본부|대학교|학교|병원|회사"
    r"|은행|지점|에서 일하는|사는))"
    rf"[ ](?:[가-힣A-Za-z]{{1,10}}[ ]){{0,3}}?({_NAME})(?:이?라고|입니다|이에요|예요|이고|인데|이며|이야)"
)
# Only of people is it said so: "...한테", "...께서". Three syllables, or it may be any word.
_TO_A_PERSON = re.compile(
    rf"(?<![가-힣A-Za-z0-9])((?:{SURNAMES})[{GIVEN}]{{2}})(?:한테|에게|께|이랑)(?:서|는|도|만)?(?![가-힣])"
)
_CALLED = re.compile(rf"(?<![가-힣])({_NAME})(?:이?라고)[ ]?(?:합니다|해요|하는데|하고|하며|해)")
_TITLED = re.compile(rf"(?<![가-힣A-Za-z0-9])({_NAME})[ ]?(?:{TITLES})")
_SIGNED = re.compile(rf"(?:^|\n|[ ])({_NAME})[ ]?(?:드림|올림|배상|拜上)(?![가-힣])")

_WORD = r"[A-Z][a-z’'\-]{1,15}(?:-[A-Za-z][a-z]{1,10})?"
_FULL = rf"{_WORD}(?:[ ][A-Z]\.)?(?:[ ]{_WORD}){{1,2}}"
_ENGLISH = (
    re.compile(
        r"(?i:\b(?:my |his |her |full |customer |contact |client |patient |user )?name(?:[ ]is|'s|:|[ ]?=)[ ]?)"
        rf"({_WORD}(?:[ ](?:[A-Z]\.|{_WORD})){{0,3}})"
    ),
    re.compile(
        r"(?i:\b(?:i am|i'm|i’m|this is|signed,?|attn:?|attention:?|dear|contact|regards,?|sincerely,?|cheers,?"
        r"|thanks,?):?)"
        rf"[ \n]{{1,2}}({_FULL})"
    ),
    re.compile(rf"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Professor|Sir|Madam)\.?[ ]({_WORD}(?:[ ]{_WORD}){{0,2}})"),
)
# Two capitalised words: the first a known first name, or either a Korean surname.
_PAIR = re.compile(r"(?<![A-Za-z\-])([A-Z][a-z]{1,11})(?=(,?[ ](?:[A-Z]\.[ ])?[A-Z][A-Za-z’'\-]{2,17})(?![A-Za-z\-]))")
_GIVEN_LATIN = re.compile(r",?[ ][A-Z][a-z]{1,6}-[A-Za-z][a-z]{1,6}")
_GIVEN_LATIN_JOINED = re.compile(r",?[ ][A-Z][a-z]{3,9}")
_ROMAN = re.compile(rf"(?<![A-Za-z\-])([A-Z][a-z]{{1,6}}-[A-Za-z][a-z]{{1,6}}[ ](?:{SURNAMES_LATIN}))(?![A-Za-z])")
_FIRST, _SURNAMES, _CLEAR = (
    frozenset(words.split("|")) for words in (FIRST_NAMES, SURNAMES_LATIN, SURNAMES_LATIN_CLEAR)
)
_NOT_ENGLISH = re.compile(
    r"^(?:Team|Support|Sales|Customer|Service|Hiring|Sir|Madam|All|Everyone|Google|Microsoft|Adobe|Amazon|Visual"
    r"|Open|Apple|Slack|Notion"
    r"|Power|Final|Looking|Building|Using|Trying|Working|New|The|Not|Just|Currently|Korean|English|Mac|Windows|Linux)\b"
)


def korean_name(text: str) -> Iterator[Span]:
    """Names in Hangul in a context that says so."""
    for match in _LABEL.finditer(text):
        # "담당자 배정": a label and a short word, with nothing between that says one is the other's name
        if _is_name(match.group(2)) and (match.group("mark").strip() or len(match.group(2).replace(" ", "")) > 2):
            yield Span(match.start(2), match.end(2), "name")
    for pattern in (_INTRO, _CALLED, _TITLED, _SIGNED, _TO_A_PERSON):
        for match in pattern.finditer(text):
            if _is_name(match.group(1)):
                yield Span(match.start(1), match.end(1), "name")


def english_name(text: str) -> Iterator[Span]:
    """Names in Latin letters: in a context that says so, or by a known first name or a hyphenated Korean one."""
    for pattern in _ENGLISH:
        for match in pattern.finditer(text):
            if not _NOT_ENGLISH.match(match.group(1)):
                yield Span(match.start(1), match.end(1), "name")
    for match in _PAIR.finditer(text):
        first, rest = match.groups()
        if (
            (first in _FIRST and rest[0] == " ")
            or (first in _SURNAMES and _GIVEN_LATIN.fullmatch(rest))
            or (first in _CLEAR and _GIVEN_LATIN_JOINED.fullmatch(rest))
        ):
            yield Span(match.start(), match.end() + len(rest), "name")
    for match in _ROMAN.finditer(text):
        yield Span(match.start(1), match.end(1), "name")


def _is_name(found: str) -> bool:
    bare = found.replace(" ", "")
    if bare in NOT_NAMES or is_common_word(bare) or is_title(bare) or is_field_label(bare):
        return False
    word = bare[:-1] if len(bare) == 3 and bare[-1] in "은이가도로인" else ""  # a particle, and no third syllable
    return word not in NOT_NAMES and not (word and is_common_word(word))
