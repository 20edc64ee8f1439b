"""Postal addresses: Korean road and lot addresses down to the flat, English ones, romanised Korean ones. Pure.

A place becomes an address with a number: "강남구 맛집" stays, "강남구 테헤란로 152" goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ko_pii.dictionaries.districts import is_common_dong, is_district, is_extra_city
from ko_pii.dictionaries.legal_dongs import is_legal_dong

from lake.privacy.types import Span

_PROVINCE = (
    r"(?:(?:서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|충북|충남|전북|전남|경북|경남|제주)"
    r"(?:특별자치시|특별자치도|특별시|광역시|시|도)?|충청[남북]도|전라[남북]도|경상[남북]도)"
)
_CITY = r"[가-힣]{1,5}[시군구]"
_PLACE = (
    rf"(?P<province>{_PROVINCE})?[ ]{{0,2}}(?P<cities>(?:{_CITY}[ ]{{0,2}}){{0,3}})"
    rf"(?P<town>[가-힣]{{1,6}}[읍면][ ]{{0,2}})?"
)
_NUMBER = r"(?:지하[ ]?)?[0-9]{1,5}(?:[ ]?-[ ]?[0-9]{1,4})?(?![0-9])(?:번지|번길[ ]?[0-9]{1,4}(?:-[0-9]{1,4})?)?"
_DETAIL = (
    r"(?:[ ,]{0,2}(?:\([가-힣A-Za-z0-9, ·]{2,30}\)|(?:지하[ ]?|B)?[0-9]{1,5}(?:동|호|층)(?![수점간선짜실])"
    r"|[0-9A-Za-z]{1,3}동[ ]?[0-9]{1,5}호?(?![0-9])"
    r"|[가-힣A-Za-z0-9]{1,15}(?:아파트|빌딩|타워|오피스텔|빌라|주공|센터|스퀘어|플라자|맨션|하이츠|캐슬|자이"
    r"|래미안|푸르지오|더샵"
    r"|아이파크|힐스테이트|파크|빌|단지)(?=[ ,0-9.)]|$)|[가-힣A-Za-z]{2,10}(?=[ ][0-9]{1,4}(?:동|호|층))"
    r"|[0-9]{3,4}-[0-9]{3,4}"
    r"(?![0-9\-])))*"
)
_ROAD = re.compile(
    rf"(?<![가-힣]){_PLACE}(?P<road>[가-힣A-Za-z0-9·.]{{1,12}}?(?:대로|로|길)"
    rf"(?:[0-9가-힣]{{1,6}}길|[ ][0-9]{{1,4}}(?:번|가)?길)?)[ ]{{0,2}}{_NUMBER}{_DETAIL}"
)
_LOT = re.compile(
    rf"(?<![가-힣]){_PLACE}(?P<dong>[가-힣]{{1,6}}[0-9]{{0,2}}(?:동|리|가))[ ]{{0,2}}(?:산[ ]?)?{_NUMBER}{_DETAIL}"
)
_HOME = re.compile(
    rf"(?<![가-힣])(?P<province>{_PROVINCE})?[ ]{{0,2}}(?P<cities>(?:{_CITY}[ ]{{0,2}}){{0,3}})"
    rf"(?P<dong>[가-힣]{{1,6}}[0-9]?동[ ]{{0,2}})?"
    r"[가-힣A-Za-z0-9]{2,15}(?:아파트|오피스텔|빌라|자이|래미안|푸르지오|더샵|아이파크|힐스테이트|롯데캐슬|주공"
    r"|빌|타워)?[ ]?"
    r"(?:[0-9]{1,2}차[ ]?)?[0-9A-Za-z]{1,4}동[ ]{0,2}[0-9]{2,4}호"
)
_LABEL = re.compile(r"(?:주소|자택|거주지|배송지|본가|사는 곳|살고 ?있는|집)(?:는|은|가|이|:|：)?[ ]?(?:[:：][ ]?)?$")

_STREET = (
    r"(?:Street|Avenue|Road|Boulevard|Drive|Lane|Court|Place|Way|Terrace|Square|Highway|Parkway|Circle|Trail"
    r"|St|Ave|Rd|Blvd|Dr|Ln|Ct|Pl|Ter|Sq|Hwy|Pkwy|Cir)"
)
_ENGLISH = re.compile(
    rf"(?<![0-9A-Za-z.,#$])[0-9]{{1,5}}[A-Za-z]?,?[ ](?:(?:[NSEW]|North|South|East|West|[NS][EW])\.?[ ])?"
    rf"(?:(?:[A-Z][a-z'’.]+|[0-9]{{1,3}}(?:st|nd|rd|th))[ ]){{1,3}}{_STREET}\b\.?"
    r"(?:,?[ ](?:Apt|Apartment|Suite|Ste|Unit|Floor|Fl|#)\.?[ ]?#?[A-Za-z0-9\-]{1,6})?"
    r"(?:,[ ](?:[A-Z][a-z]+[ ]?){1,3})?(?:,[ ](?:[A-Z]{2}|[A-Z][a-z]+))?(?:,?[ ][0-9]{5}(?:-[0-9]{4})?"
    r"|,?[ ][A-Z]{1,2}[0-9][A-Z0-9]?[ ][0-9][A-Z]{2})?"
)
_ROMAN = re.compile(
    r"(?:[#A-Za-z0-9\-]{1,8}(?:ho|dong)?,[ ]){0,2}(?<![0-9A-Za-z])[0-9]{1,4}(?:-[0-9]{1,4})?,?[ ][A-Z][A-Za-z]+"
    r"(?:[ ]?[0-9]{0,3}(?:beon)?)?-(?:ro|gil|daero|dong)(?:[ ]?[0-9]{1,3}(?:beon)?-gil)?\b"
    r"(?:,[ ][A-Z][A-Za-z\-]+){0,4}(?:,?[ ][0-9]{5}(?![0-9]))?"
)
_BOX = re.compile(r"\bP\.?[ ]?O\.?[ ]?Box[ ][0-9]{1,6}\b", re.IGNORECASE)
# Words that end like a road and stand before numbers in ordinary sentences.
_NO_ROAD_WORDS = """
별로 따로 새로 서로 바로 으로 도로 최대로 절대로 그대로 마음대로 제대로 이대로 차례로 수시로 실제로 주로 진짜로 대로
로 길 앞으로 뒤로 위로 아래로 무료로 유료로 하나로 기본으로
"""
_NO_ROAD = frozenset(_NO_ROAD_WORDS.split())


def _is_place(match: re.Match[str]) -> bool:
    """Whether the words before the road or lot are real districts of Korea ("도구 별로 3개" has none)."""
    cities = match.group("cities").split()
    if match.group("province"):
        return True
    return any(is_district(city) or is_extra_city(city) or is_extra_city(city.removesuffix("시")) for city in cities)


# What each of the patterns above can't do without; they are tried everywhere else in vain, at ten times the cost.
_ROAD_CORE = re.compile(r"[로길][ ]{0,2}(?:지하[ ]?)?[0-9]")
_LOT_CORE = re.compile(r"[동리가][ ]{0,2}(?:산[ ]?|지하[ ]?)*[0-9]")
_HOME_CORE = re.compile(r"동[ ]{0,2}[0-9]{2,4}호")
_ROMAN_CORE = re.compile(r"-(?:ro|gil|daero|dong)|daero|beon-gil")


def address(text: str) -> Iterator[Span]:
    """Postal addresses with a house number, a lot number or a flat."""
    for match in _ROAD.finditer(text) if _ROAD_CORE.search(text) else ():
        road = match.group("road")
        labelled = _LABEL.search(text, max(0, match.start() - 14), match.start())
        if road not in _NO_ROAD and (_is_place(match) or (labelled and len(road) >= 3)):
            yield Span(match.start() + _leading(match), match.end(), "address")
    for match in _LOT.finditer(text) if _LOT_CORE.search(text) else ():
        dong = match.group("dong")
        known = is_common_dong(dong) or is_legal_dong(dong) or is_legal_dong(re.sub(r"[0-9]+", "", dong))
        labelled = _LABEL.search(text, max(0, match.start() - 14), match.start())
        if (_is_place(match) and len(dong) >= 2) or (labelled and known):
            yield Span(match.start() + _leading(match), match.end(), "address")
    for match in _HOME.finditer(text) if _HOME_CORE.search(text) else ():
        yield Span(match.start() + _leading(match), match.end(), "address")
    for match in _ROMAN.finditer(text) if _ROMAN_CORE.search(text) else ():
        yield Span(match.start(), match.end(), "address")
    for pattern in (_ENGLISH, _BOX):
        for match in pattern.finditer(text):
            yield Span(match.start(), match.end(), "address")


def _leading(match: re.Match[str]) -> int:
    return len(match.group()) - len(match.group().lstrip())
