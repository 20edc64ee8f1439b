"""Names of people, where the words around say that it is one: a label, a title, an introduction, a signature. Pure.

ko-pii's own name detector scores any two to four syllables that start like a surname; on the sample catalogue it
takes 188 ordinary words for names, and a dataset about tools can't lose those. So the context must say "person", and
ko-pii's dictionaries of surnames and common words only veto. What has no such context is missed: see docs/privacy.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ko_pii.dictionaries.common_words import is_common_word

from lake.privacy.types import Span
from lake.privacy.words import GIVEN, NAME_LABELS_KO, NOT_NAMES, SURNAMES, SURNAMES_LATIN, SURNAMES_LATIN_CLEAR, TITLES

_NAME = rf"(?:{SURNAMES})[ ]?[{GIVEN}](?:[ ]?[{GIVEN}])?"
_PARTICLES = (
    "이고|이며|이라|이야|입니다|이에요|예요|이구요|이요|이|은|는|가|을|를|의|에게|한테|께|와|과|도|님|씨|으로|로"
    "|랑|하고|라고|인데"
    "|이랑|야|고요|이었|였"
)
_AFTER = rf"(?=$|[^가-힣]|(?:{_PARTICLES})(?![가-힣]{{3}}))"
_LABEL = re.compile(
    rf"(?:{NAME_LABELS_KO})(?:[ ]?(?:은|는|이|가|란|칸에|란에|에는|에|을|를))?[ ]?[:：=\-\"'“‘(\[]?[ ]?"
    rf"({_NAME}){_AFTER}"
)
_INTRO = re.compile(
    rf"(?:저는|나는|제가|전|저|제 이름은|내 이름은)[ ](?:[가-힣A-Za-z]{{1,10}}[ ]){{0,3}}?({_NAME})(?:이?라고"
    rf"|입니다|이에요|예요|이고|인데|이며|이야)"
)
_CALLED = re.compile(rf"(?<![가-힣])({_NAME})(?:이?라고)[ ]?(?:합니다|해요|하는데|하고|하며|해)")
_TITLED = re.compile(rf"(?<![가-힣A-Za-z0-9])({_NAME})[ ]?(?:{TITLES})")
_SIGNED = re.compile(rf"(?:^|\n|[ ])({_NAME})[ ]?(?:드림|올림|배상|拜上)(?![가-힣])")

_WORD = r"[A-Z][a-z’'\-]{1,15}(?:-[A-Za-z][a-z]{1,10})?"
_FULL = rf"{_WORD}(?:[ ][A-Z]\.)?(?:[ ]{_WORD}){{1,2}}"
_ENGLISH = (
    re.compile(
        rf"(?i:\b(?:my |his |her |full |customer |contact |client |patient |user )?name(?:[ ]is|'s|:|[ ]?=)[ ]?)"
        rf"({_WORD}(?:[ ](?:[A-Z]\.|{_WORD})){{0,3}})"
    ),
    re.compile(
        rf"(?i:\b(?:i am|i'm|i’m|this is|it's|signed,?|attn:?|attention:?|dear|contact|call|email|ask|regards,?"
        rf"|sincerely,?|cheers,?|thanks,?|from:|to:))[ \n]{{1,2}}({_FULL})"
    ),
    re.compile(rf"\b(?:Mr|Mrs|Ms|Miss|Dr|Prof|Professor|Sir|Madam)\.?[ ]({_WORD}(?:[ ]{_WORD}){{0,2}})"),
)
_ROMAN = (
    re.compile(rf"(?<![A-Za-z])((?:{SURNAMES_LATIN}),?[ ][A-Z][a-z]{{1,6}}-[A-Za-z][a-z]{{1,6}})(?![A-Za-z\-])"),
    re.compile(rf"(?<![A-Za-z])((?:{SURNAMES_LATIN_CLEAR}),?[ ][A-Z][a-z]{{3,9}})(?![A-Za-z\-])"),
    re.compile(rf"(?<![A-Za-z\-])([A-Z][a-z]{{1,6}}-[A-Za-z][a-z]{{1,6}}[ ](?:{SURNAMES_LATIN}))(?![A-Za-z])"),
)
_NOT_ENGLISH = re.compile(
    r"^(?:Team|Support|Sales|Customer|Service|Hiring|Sir|Madam|All|Everyone|Google|Microsoft|Adobe|Amazon|Visual"
    r"|Open|Apple|Slack|Notion"
    r"|Power|Final|Looking|Building|Using|Trying|Working|New|The|Not|Just|Currently|Korean|English|Mac|Windows|Linux)\b"
)


def name(text: str) -> Iterator[Span]:
    """Korean and English names in a context that says so."""
    for pattern in (_LABEL, _INTRO, _CALLED, _TITLED, _SIGNED):
        for match in pattern.finditer(text):
            if _is_name(match.group(1)):
                yield Span(match.start(1), match.end(1), "name")
    for pattern in _ENGLISH:
        for match in pattern.finditer(text):
            if not _NOT_ENGLISH.match(match.group(1)):
                yield Span(match.start(1), match.end(1), "name")
    for pattern in _ROMAN:
        for match in pattern.finditer(text):
            yield Span(match.start(1), match.end(1), "name")


def _is_name(found: str) -> bool:
    bare = found.replace(" ", "")
    return (
        bare not in NOT_NAMES
        and not is_common_word(bare)
        and not any(bare.startswith(word) for word in NOT_NAMES if len(word) >= 2 and len(bare) > len(word))
    )
