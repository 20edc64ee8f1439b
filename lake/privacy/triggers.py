"""The cheap pass: which kinds of personal data could this text hold at all? Patterns that Python and Rust read alike.

Each family of detectors has a few patterns; where none of them matches, its detectors are not run. `mask` asks Python's
engine, `mask_columns` polars' (Rust) over whole columns, with the same answer: the syntax is what both share (no
look-around, no `\\p`, no `\\b`, characters written out). The patterns are wide on purpose: they cost time where they
match too much, recall where they match too little. They are many and small, since one big one overflows Rust's lazy
DFA: 45 s for what they do in 2. Pure.
"""

from __future__ import annotations

import re

from lake.privacy.types import PLACEHOLDER
from lake.privacy.words import (
    FIRST_NAMES,
    FREE_MAIL,
    GIVEN,
    HANGUL_DIGITS,
    NAME_LABELS_KO,
    SPOKEN_DIGITS,
    SURNAMES,
    SURNAMES_LATIN,
    TITLES,
)

BLANK = "\ufffc"  # OBJECT REPLACEMENT CHARACTER stands for a placeholder while a text is searched

# Digits that NFKC or ko-pii read as digits besides Nd: superscripts, circled and parenthesised numbers.
_NO = "²³¹⁰-₉①-⓿❶-➓"
DIGIT = rf"[\d{_NO}]"
_DASHES = "‐-―−·•‧∙⋅・ㆍ⁄∕"
GAP = rf"[ \t\r\n.,\-()\[\]/\\~_:|*+{_DASHES}]"
# What only obfuscation (or a broken input method) writes: zero width, controls, jamo apart, full width, styled
# letters, combining marks, digits of other scripts.
_ODD = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u0300-\u036f\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\u1100-\u11ff"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u20d0-\u20ff\ua960-\ua97f\ud7b0-\ud7ff\ufe20-\ufe2f\ufeff"
    "\uff0d-\uff19\uff20-\uff3a\uff41-\uff5a\U0001d400-\U0001d7ff"
)
FOLDED = re.compile(f"[{_ODD}{_NO}{_DASHES}]")  # a text without these is its own plain view

_SPELLED_GAP = r"[ \-.,·/~]{0,2}(?:에|의|다시|하이픈|대시)?[ ]?"
_HANGUL = f"[{HANGUL_DIGITS}]"
_EITHER = rf"[{HANGUL_DIGITS}\d]"
_SECRET_WORDS = (
    r"passw|passphrase|secret|token|api.?key|access.?key|authorization|bearer|private key|pwd",
    r"비밀번호|비번|암호|패스워드|토큰|인증키|시크릿|API ?키|액세스 ?키|접근 ?키|접속 ?키",
)

# By family: (gate, pattern). A gate is a cheap necessary condition of many patterns: polars asks it of every text, and
# the pattern only where it holds.
GATES: dict[str, str] = {
    "all": "",
    "digit": DIGIT,
    "capital": r"[ \n:=s][A-Z]",
    "person": rf"{TITLES}|{NAME_LABELS_KO}|드림|올림|배상|라고|입니다|이에요|예요|이고|인데|이며|이야|한테|에게"
    "|께|이랑",
}
FAMILIES: dict[str, tuple[tuple[str, str], ...]] = {
    "odd": (("all", f"[{_ODD}]"),),
    "spelled": (
        ("digit", r"\d[ ]\d[ ]\d[ ]\d[ ]\d"),
        ("digit", r"\d[ .\-]{0,2}[OoQlI|SBZG](?:[ .\-]{0,2}[\dOoQlI|SBZG]){4}"),
        ("digit", r"[OoQlI|SBZG][ .\-]{0,2}[\dOoQlI|SBZG]{0,2}[ .\-]{0,2}\d(?:[ .\-]{0,2}[\dOoQlI|SBZG]){6}"),
        ("all", rf"{_HANGUL}(?:{_SPELLED_GAP}{_EITHER}){{6}}"),
        ("digit", rf"(?:{_EITHER}{_SPELLED_GAP}){{6}}{_HANGUL}"),
        ("digit", rf"\d{{2,6}}{_SPELLED_GAP}(?:{_HANGUL}[ ]?){{2,}}{_SPELLED_GAP}\d{{2,}}"),
        ("all", rf"(?i:{SPOKEN_DIGITS})(?:[ ,\-]{{1,3}}(?i:{SPOKEN_DIGITS})){{6}}"),
    ),
    "digits": (
        ("digit", rf"{DIGIT}(?:{GAP}{{0,3}}{DIGIT}){{6}}"),
        ("digit", r"\d{6} ?[\-–] ?[1-8]?[*•xX●○]{6}"),
    ),
    "document": (
        ("digit", r"[A-Za-z]\d{3}[A-Za-z]\d{4}|[A-Za-z]\d{8}"),
        ("digit", r"(?i:passport)|여권|면허|(?i:driv)|(?i:licen[cs]e n)"),
    ),
    "account": (("digit", r"(?i:iban|account|acct)|계좌"), ("digit", r"[A-Z]{2}\d{2}[ ]?[A-Z\d]{4}")),
    "ip": (("digit", r"\d\.\d{1,3}\.\d{1,3}\.\d"), ("all", r"[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){3}")),
    "email": (
        ("all", r"@|골뱅이"),
        ("all", r"(?i:[\[({<] ?at ?[\])}>])"),
        ("all", rf"(?i: at [a-z0-9\-]{{1,40}}(?: dot |\.| 닷 ?| 점 ?)[a-z])|(?i: at (?:{FREE_MAIL}))"),
    ),
    "secret": (
        ("all", f"(?i:{_SECRET_WORDS[0]})[^\\n{BLANK}]{{0,8}}[:= ]"),
        ("all", _SECRET_WORDS[1]),
        ("all", r"sk-|[prs]k_|gh[a-z]_|github_pat|glpat|xox|AKIA|ASIA|AIza|ya29|hf_|npm_|pypi-|dop_v1|SG\.|eyJ|mulle_"),
        ("all", r"://[^ /@]+:[^ /@]+@|-----BEGIN|hooks\."),
    ),
    "address": (
        ("digit", r"[가-힣][시군구][ ]{0,2}[가-힣A-Za-z0-9·.]{1,16}[로길동읍면리가][ ]{0,2}(?:지하|산)?[ ]?\d"),
        ("digit", r"\d동[ ]{0,2}\d|[가-힣][읍면][ ]{0,2}[가-힣A-Za-z0-9·.]{1,16}[로길리][ ]{0,2}\d"),
        (
            "digit",
            r"(?:서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|충북|충남|전북|전남|경북|경남|제주)[가-힣 ]{1,24}\d",
        ),
        ("digit", f"(?:주소|자택|거주지|배송지|본가|사는 곳|살고|집)[^\\n{BLANK}]{{0,24}}\\d"),
        (
            "digit",
            r"\d[A-Za-z]?[ ,]{1,2}(?:[A-Za-z0-9.'’\-]{1,20}[ ,]{1,2}){1,4}"
            r"(?:St|Ave|Road|Rd|Blvd|Boulevard|Dr|Lane|Ln|Court|Ct|Pl|Way|Ter|Sq|Highway|Hwy|Parkway|Pkwy|Cir|Trail)",
        ),
        ("digit", r"[a-z](?:-ro|-gil|-daero|-dong|daero|beon-gil)|(?i:p\.? ?o\.? ?box)"),
    ),
    "name_ko": (
        ("person", rf"(?:{SURNAMES})[ ]?(?:[{GIVEN}][ ]?){{1,2}}(?:{TITLES}|드림|올림|배상)"),
        (
            "person",
            rf"(?:{NAME_LABELS_KO})[^가-힣]{{0,3}}[은는이가란칸에을를]{{0,2}}[^가-힣]{{0,3}}"
            rf"(?:{SURNAMES})[ ]?[{GIVEN}]",
        ),
        (
            "person",
            rf"(?:{SURNAMES})[ ]?[{GIVEN}][ ]?[{GIVEN}]?(?:이?라고|입니다|이에요|예요|이고|인데|이며|이야)",
        ),
        ("person", rf"(?:{SURNAMES})[{GIVEN}]{{2}}(?:한테|에게|께|이랑)"),
    ),
    "name_en": (
        ("capital", rf"(?:{FIRST_NAMES})[ ][A-Z]"),
        ("capital", rf"(?:{SURNAMES_LATIN}),?[ ][A-Z]"),
        ("capital", rf"[a-z]-[A-Za-z]{{2,7}}[ ](?:{SURNAMES_LATIN})"),
        ("capital", r"(?i:name)(?: is|'s|:| ?=)[ ]?[A-Z]"),
        (
            "capital",
            r"(?i:i am|i'm|i’m|this is|signed|attn|attention|dear|contact|regards|sincerely|cheers|thanks)[,:]{0,2}"
            r"[ \n]{1,2}[A-Z]",
        ),
        ("capital", r"(?:Mr|Mrs|Ms|Miss|Dr|Prof|Professor|Sir|Madam)\.?[ ][A-Z]"),
    ),
}
BITS = {family: 1 << place for place, family in enumerate(FAMILIES)}
EVERY = sum(BITS.values())
_COMPILED = {family: tuple(re.compile(pattern) for _, pattern in parts) for family, parts in FAMILIES.items()}
_GATES = {gate: re.compile(pattern) for gate, pattern in GATES.items()}


def families(text: str) -> int:
    """Bits of the families that `text` could hold; 0 where there is nothing to look for. Placeholders don't count."""
    bare = PLACEHOLDER.sub(BLANK, text)
    held = {gate for gate, pattern in _GATES.items() if pattern.search(bare)}
    return sum(
        BITS[family]
        for family, parts in FAMILIES.items()
        if any(
            gate in held and pattern.search(bare) for (gate, _), pattern in zip(parts, _COMPILED[family], strict=True)
        )
    )
