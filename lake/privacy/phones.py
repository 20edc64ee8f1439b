"""Telephone numbers, Korean and international, and bank accounts: digits that their form or a word beside them tells.

Pure; a view whose digits are digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ko_pii.patterns import account as bank

from lake.privacy.types import SEP, Span

_AFTER = r"(?![0-9])(?![.,][0-9])"
_MOBILE = re.compile(rf"(?<![0-9])\(?(01[016789])\)?{SEP}([0-9]{{3,4}}){SEP}([0-9]{{4}})(?![0-9])")
_LANDLINE = re.compile(
    rf"(?<![0-9.])\(?(02|0[3-6][1-5]|070|080|060|050[0-9]?)\)?({SEP})([0-9]{{3,4}})({SEP})([0-9]{{4}}){_AFTER}"
)
_KOREA = re.compile(
    rf"(?<![0-9])(?:\+|00)?\(?82\)?{SEP}(?:\(0\)|0)?[ \-.]?\(?(1[016789]|2|[3-6][1-5]|70|80|50[0-9]?)\)?{SEP}"
    rf"([0-9]{{3,4}}){SEP}([0-9]{{4}})(?![0-9])"
)
_INTERNATIONAL = re.compile(
    r"(?<![0-9+\-])(?:\+|\b00(?=[1-9][0-9]?[ \-.(]))[ ]?[1-9][0-9]{0,2}(?:[ \-./()]{0,3}[0-9]{1,5}){2,6}(?![0-9])"
)
_NORTH_AMERICA = re.compile(
    r"(?<![0-9\-.])(?:1[\-. ])?(?:\([2-9][0-9]{2}\)[ ]?|[2-9][0-9]{2}([\-. ]))[2-9][0-9]{2}[\-. ][0-9]{4}(?![0-9\-])"
)
_REPRESENTATIVE = re.compile(r"(?<![0-9+\-])1[5-8][0-9]{2}[ \-.]{1,2}[0-9]{4}(?![0-9\-])")
_LOCAL = re.compile(r"(?<![0-9\-])[0-9]{3,4}[ ]?[\-. ][ ]?[0-9]{4}(?![0-9\-])")
_PHONE_WORDS = re.compile(
    r"전화|연락처|연락|휴대폰|핸드폰|휴대 ?전화|폰 ?번호|번호는|걸어|걸면|부재중|회신|내선|대표 ?번호|고객 ?센터"
    r"|콜 ?센터|문자|☎|📞"
    r"|\btel\b|phone|\bcall\b|mobile|\bcell\b|팩스"
    r"|\bfax\b|whatsapp|\btext me",
    re.IGNORECASE,
)
_YEAR = re.compile(r"(?:19|20)[0-9]{2}[ ]?[\-. ]")


def _near(text: str, start: int, end: int, words: re.Pattern[str], before: int = 20, after: int = 10) -> bool:
    window = text[max(0, start - before) : start] + "\n" + text[end : end + after]
    return words.search(window) is not None


def phone(text: str) -> Iterator[Span]:
    """Mobile, landline, Internet and safe numbers of Korea, numbers with a country code, North American ones."""
    for pattern in (_MOBILE, _KOREA):
        for match in pattern.finditer(text):
            yield Span(match.start(), match.end(), "phone")
    for match in _LANDLINE.finditer(text):
        if (
            match.group(2)
            or match.group(4)
            or _near(text, match.start(), match.end(), _PHONE_WORDS)
            or len(match.group()) >= 10
        ):
            yield Span(match.start(), match.end(), "phone")
    for match in _INTERNATIONAL.finditer(text):
        if 8 <= sum(char.isdigit() for char in match.group()) <= 15:
            yield Span(match.start(), match.end(), "phone")
    for match in _NORTH_AMERICA.finditer(text):
        yield Span(match.start(), match.end(), "phone")
    for pattern in (_REPRESENTATIVE, _LOCAL):
        for match in pattern.finditer(text):
            if not _YEAR.match(match.group()) and _near(text, match.start(), match.end(), _PHONE_WORDS, 14, 0):
                yield Span(match.start(), match.end(), "phone")


_BANKS = (
    r"(?:국민|신한|우리|하나|기업|농협|수협|제일|씨티|부산|대구|iM|경남|광주|전북|제주|산업|외환|카카오|토스"
    r"|케이)(?:은행|뱅크)"
    r"|카뱅|케뱅|농협|수협|신협|우체국|새마을금고|KB|NH|IBK|KEB|SC제일|K뱅크|국민|신한|하나|우리|기업"
)
_DIGITS = r"[0-9]{2,6}(?:[ ]?[\-./ ·_][ ]?[0-9]{2,8}){1,4}|[0-9]{9,16}"
_ACCOUNT = re.compile(
    rf"(?:(?:계좌|통장|입금|송금|환불)[^0-9\n]{{0,20}}?|(?:{_BANKS})[^0-9\n]{{0,14}}?)((?<![0-9])(?:{_DIGITS}))"
    rf"(?![0-9\-])",
    re.IGNORECASE,
)
_ACCOUNT_EN = re.compile(
    rf"(?:account|acct)\.?(?: ?(?:no\.?|number|num|#))?[^0-9\n]{{0,12}}?((?<![0-9])(?:{_DIGITS}))(?![0-9\-])",
    re.IGNORECASE,
)
_ACCOUNT_AFTER = re.compile(rf"(?<![0-9\-])({_DIGITS})[ ]?\(?(?:{_BANKS})(?![가-힣A-Za-z]{{2}})")
_IBAN = re.compile(r"(?<![A-Za-z0-9])([A-Z]{2}[0-9]{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,3})?)(?![A-Za-z0-9])")
_DATE = re.compile(r"(?:19|20)[0-9]{2}[\-./ ]+[01]?[0-9](?:[\-./ ]+[0-3]?[0-9])?(?:$|[^0-9])")


def account(text: str) -> Iterator[Span]:
    """Bank accounts beside the word or a bank's name, and IBANs with a valid check (ISO 13616)."""
    spans = [
        (match.start(1), match.end(1))
        for pattern in (_ACCOUNT, _ACCOUNT_EN, _ACCOUNT_AFTER)
        for match in pattern.finditer(text)
    ]
    spans += [(found.start, found.end) for found in bank.detect(text)]
    for start, end in spans:
        value = text[start:end]
        if 9 <= sum(char.isdigit() for char in value) <= 16 and not _DATE.match(value):
            yield Span(start, end, "account")
    for match in _IBAN.finditer(text):
        value = match.group(1).replace(" ", "")
        if 15 <= len(value) <= 34 and int("".join(str(int(char, 36)) for char in value[4:] + value[:4])) % 97 == 1:
            yield Span(match.start(1), match.end(1), "account")
