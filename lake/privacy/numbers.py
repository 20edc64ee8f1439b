"""Numbers that the state, a bank or a telephone company gave to a person: found in a view whose digits are digits.

ko-pii finds what is written as the offices write it; the rest is ours: any separator, no separator, hidden tails,
numbers that only their context tells. Rules of thumb: a form that nothing else has is enough by itself; a bare run of
digits wants a checksum or a word beside it. A checksum never clears a resident number: since October 2020 its tail is
random. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date

from ko_pii.checksum.business_reg_checksum import is_valid_checksum as business_checksum
from ko_pii.checksum.luhn import is_valid as luhn
from ko_pii.patterns import driver_license, passport, rrn

from lake.privacy.types import SEP, Span


def _near(text: str, start: int, words: re.Pattern[str], before: int = 36, after: int = 0, end: int = 0) -> bool:
    """Whether one of `words` stands within so many characters before `start` (or after `end`)."""
    if words.search(text, max(0, start - before), start):
        return True
    return bool(after) and words.search(text, end, min(len(text), end + after)) is not None


# ---- resident and foreigner numbers, US social security numbers

_RESIDENT = re.compile(
    rf"(?<![0-9])([0-9]{{2}}{SEP}[0-9]{{2}}{SEP}[0-9]{{2}})(?:{SEP}|\n?[ ]*[\-–]\n?[ ]*)"
    rf"([0-9][0-9 ]{{0,1}}[0-9]{{5,6}}[0-9]?)(?![0-9])"
)
_HIDDEN = re.compile(r"(?<![0-9])([0-9]{6}) ?- ?([0-9*•xX●○])[*•xX●○]{5,6}")
_NOT_A_PERSON = re.compile(
    r"바코드|barcode|EAN|GTIN|ISBN|상품 ?(?:번호|코드)|품번|SKU|timestamp|타임 ?스탬프|epoch|unix", re.IGNORECASE
)
_SSN = re.compile(r"(?<![0-9\-])(?!000|666|9)[0-9]{3}([\- ])(?!00)[0-9]{2}\1(?!0000)[0-9]{4}(?![0-9\-])")
_SSN_WORDS = re.compile(r"\bssn\b|social security|사회 ?보장 ?번호", re.IGNORECASE)
_SSN_BARE = re.compile(r"(?<![0-9])[0-9]{9}(?![0-9])")
_CENTURY = {"1": 1900, "2": 1900, "5": 1900, "6": 1900, "3": 2000, "4": 2000, "7": 2000, "8": 2000}
_OLDEST = 120  # years


def _born(front: str, centuries: Iterable[int]) -> bool:
    """Whether somebody alive can have been born on that day (YYMMDD) of one of the centuries."""
    today = date.today()
    for century in centuries:
        try:
            born = date(century + int(front[:2]), int(front[2:4]), int(front[4:6]))
        except ValueError:
            continue
        if today.year - _OLDEST <= born.year and born <= today:
            return True
    return False


def _centuries(gender: str) -> tuple[int, ...]:
    """Century of birth by the seventh digit; both where it is hidden; none for those born before 1900."""
    return (_CENTURY[gender],) if gender in _CENTURY else (1900, 2000) if not gender.isdigit() else ()


def resident(text: str) -> Iterator[Span]:
    """Resident and foreigner numbers (a date of birth, then a gender digit), whole or with a hidden tail."""
    for match in _RESIDENT.finditer(text):
        front, back = (re.sub(r"[^0-9]", "", part) for part in match.groups())
        if len(front) != 6 or len(back) != 7 or not _born(front, _centuries(back[0])):
            continue
        if match.group().isdigit() and _near(text, match.start(), _NOT_A_PERSON):
            continue
        yield Span(match.start(), match.end(), "foreigner" if back[0] in "5678" else "resident")
    for found in rrn.detect(text):  # its forms with words between the halves
        if not re.fullmatch(r"[0-9 ./\-]*", found.text):
            yield Span(found.start, found.end, "resident")
    for match in _HIDDEN.finditer(text):
        gender = match.group(2)
        if _born(match.group(1), _centuries(gender)):
            yield Span(match.start(), match.end(), "foreigner" if gender in "5678" else "resident")


def social_security(text: str) -> Iterator[Span]:
    """Social security numbers of the United States: hyphenated, or beside the words."""
    for match in _SSN.finditer(text):
        if match.group(1) == "-" or _near(text, match.start(), _SSN_WORDS):
            yield Span(match.start(), match.end(), "ssn")
    for match in _SSN_BARE.finditer(text):
        if _near(text, match.start(), _SSN_WORDS):
            yield Span(match.start(), match.end(), "ssn")


# ---- cards

_CARD = re.compile(
    r"(?<![0-9])(?:[0-9]{4}([ \t]?[\-./_·,]?[ \t]?)[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}"
    r"|3[0-9]{3}[ \t]?[\-. /][ \t]?[0-9]{6}[ \t]?[\-. /][ \t]?[0-9]{4,5}|[0-9]{13,19})(?![0-9])"
)
_CARD_WORDS = re.compile(r"카드|visa|master ?card|amex|비자|마스터|card|결제|체크|신용", re.IGNORECASE)
_ISSUER = re.compile(
    r"4(?:[0-9]{12}|[0-9]{15}|[0-9]{18})$|(?:5[1-5]|2[2-7])[0-9]{14}$|3[47][0-9]{13}$|3(?:0[0-5]|[68][0-9])[0-9]{11}$"
    r"|35[0-9]{14}$|(?:6011|6[245][0-9]{2})[0-9]{12,15}$|9[0-9]{15}$|5[06-9][0-9]{14}$"
)


def card(text: str) -> Iterator[Span]:
    """Payment cards: an issuer's prefix and length with a valid Luhn digit, or four groups beside a word for a card."""
    for match in _CARD.finditer(text):
        digits = re.sub(r"[^0-9]", "", match.group())
        grouped = len(digits) != match.end() - match.start()
        issued = _ISSUER.match(digits) is not None
        near = _near(text, match.start(), _CARD_WORDS, 16)
        if len(set(digits)) > 1 and (
            (issued and luhn(digits)) or (near and 14 <= len(digits) <= 16 and (grouped or issued))
        ):
            yield Span(match.start(), match.end(), "card")


# ---- business numbers

_BUSINESS = re.compile(r"(?<![0-9\-])([0-9]{3})([ \t]?[\-./ ·_]?[ \t]?)([0-9]{2})\2([0-9]{5})(?![0-9\-])")
_BUSINESS_WORDS = re.compile(
    r"사업자|사업자 ?등록|등록 ?번호|business (?:registration|reg)|\bbrn\b|tax id|vat|세금 ?계산서", re.IGNORECASE
)
_CORPORATE = re.compile(r"법인 ?(?:등록)? ?번호[^0-9\n]{0,8}([0-9]{6}[ ]?[\-./]?[ ]?[0-9]{7})(?![0-9])")


def business(text: str) -> Iterator[Span]:
    """Business registration numbers (3-2-5), and corporate ones behind their label."""
    for match in _BUSINESS.finditer(text):
        digits = re.sub(r"[^0-9]", "", match.group())
        near = _near(text, match.start(), _BUSINESS_WORDS)
        separator = match.group(2).strip()
        valid = business_checksum(digits)
        if near or separator == "-" or (valid and match.group(2)):
            yield Span(match.start(), match.end(), "business")
    for match in _CORPORATE.finditer(text):
        yield Span(match.start(1), match.end(1), "business")


# ---- passports and driver's licences

_PASSPORT_SPLIT = re.compile(
    r"(?<![A-Za-z0-9])[MSRODGTmsrodgt][ \-]?(?:[0-9]{8}|[0-9]{4}[ \-][0-9]{4}|[0-9]{3} ?[A-Za-z] ?[0-9]{4})"
    r"(?![A-Za-z0-9])"
)
_PASSPORT_WORDS = re.compile(r"passport|여권", re.IGNORECASE)
_PASSPORT_ANY = re.compile(
    r"(?:passport|여권)(?:[^A-Z0-9\n]{0,4}(?:no\.?|number|번호|#|is|num))?[^A-Za-z0-9\n]{0,6}(?:은|는"
    r"|is)?[^A-Za-z0-9\n]{0,3}"
    r"((?=[A-Za-z\-]{0,3}[ ]?[0-9])[A-Za-z]{0,2}[ \-]?[0-9][A-Za-z0-9 \-]{4,10}[0-9A-Za-z])(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_LICENCE = re.compile(rf"(?<![0-9])(1[1-9]|2[0-8]){SEP}([0-9]{{2}}){SEP}([0-9]{{6}}){SEP}([0-9]{{2}})(?![0-9])")
_LICENCE_REGION = re.compile(
    r"(?:서울|부산|대구|인천|광주|대전|울산|세종|경기(?:남부|북부)?|강원|충북|충남|전북|전남|경북|경남|제주)"
    r"[ ]?-?[ ]?[0-9]{2}[ ]?-[ ]?[0-9]{6}[ ]?-[ ]?[0-9]{2}(?![0-9])"
)
_LICENCE_WORDS = re.compile(r"면허|driv[a-z']* ?licen[cs]e|licen[cs]e n", re.IGNORECASE)
_LICENCE_ANY = re.compile(
    r"driv[a-z’']* ?licen[cs]e(?: ?(?:no\.?|number|num|#))?[ ]?(?:is|:|=)?[ ]?#?[ ]?"
    r"([A-Z]?[0-9][A-Z0-9\-]{5,16}[0-9])(?![A-Za-z0-9])",
    re.IGNORECASE,
)


def document(text: str) -> Iterator[Span]:
    """Passports (Korean forms anywhere, others beside the word) and driver's licences."""
    for found in passport.detect(text):
        yield Span(found.start, found.end, "passport")
    for match in _PASSPORT_SPLIT.finditer(text):
        if _near(text, match.start(), _PASSPORT_WORDS, 24, 12, match.end()):
            yield Span(match.start(), match.end(), "passport")
    for match in _PASSPORT_ANY.finditer(text):
        value = re.sub(r"[ \-]", "", match.group(1))
        if 6 <= len(value) <= 12 and sum(char.isdigit() for char in value) >= 5:
            yield Span(match.start(1), match.end(1), "passport")
    for found in driver_license.detect(text):
        yield Span(found.start, found.end, "licence")
    for match in _LICENCE.finditer(text):
        if re.fullmatch(r"[0-9]{2}-[0-9]{2}-[0-9]{6}-[0-9]{2}", match.group()) or _near(
            text, match.start(), _LICENCE_WORDS
        ):
            yield Span(match.start(), match.end(), "licence")
    for pattern in (_LICENCE_REGION, _LICENCE_ANY):
        for match in pattern.finditer(text):
            yield Span(match.start(1) if pattern is _LICENCE_ANY else match.start(), match.end(), "licence")
