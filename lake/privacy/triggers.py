"""The cheap pass: could this text hold personal data at all? One pattern that Python and polars (Rust) read alike.

Invariant: what it does not match, `mask` leaves alone, so a whole column may be sifted by polars and only the rest
be looked at one by one, with the same result. It is wide on purpose: it costs time where it matches too much and
recall where it matches too little. The syntax is what both engines share: no look-around, no `\\p`, characters
written out. Pure.
"""

from __future__ import annotations

import re

from lake.privacy.words import (
    FREE_MAIL,
    GIVEN,
    HANGUL_DIGITS,
    NAME_LABELS_KO,
    SPOKEN_DIGITS,
    SURNAMES,
    SURNAMES_LATIN,
    TITLES,
)

# No-category digits that NFKC or ko-pii read as digits: superscripts, circled and parenthesised numbers.
DIGIT = r"[\d²³¹⁰-₉①-⓿❶-➓]"
GAP = r"[ \t\r\n.,\-‐-―−·•‧∙⋅・()\[\]/\\⁄∕~_:|*+]"
# What only obfuscation (or a broken input method) writes: zero width, controls, jamo apart, full width, styled
# letters, combining marks, digits of other scripts.
_ODD = "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u0300-\u036f\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\u1100-\u11ff" + (
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u20d0-\u20ff\ua960-\ua97f\ud7b0-\ud7ff\ufe20-\ufe2f\ufeff"
    "\uff10-\uff19\uff20-\uff3a\uff41-\uff5a\U0001d400-\U0001d7ff]"
)

FAMILIES: dict[str, str] = {
    "odd": _ODD,
    "digits": rf"{DIGIT}(?:{GAP}{{0,3}}{DIGIT}){{6}}",
    "letters_as_digits": r"[\dOoQlI|SBZG](?:[ .\-]{0,2}[\dOoQlI|SBZG]){8}",
    "hidden_tail": r"\d{6} ?[\-–] ?[1-8]?[*•xX●○]{6}",
    "hangul_digits": (
        rf"[{HANGUL_DIGITS}\d](?:[ \-.,·/~]{{0,2}}(?:에|의|다시|하이픈|대시)?[ ]?[{HANGUL_DIGITS}\d]){{7}}"
    ),
    "spoken_digits": rf"(?i)(?:{SPOKEN_DIGITS})(?:[ ,\-]{{1,3}}(?:{SPOKEN_DIGITS})){{6}}",
    "passport": r"[A-Za-z]\d{3}[A-Za-z]\d{4}|[A-Za-z]\d{8}|(?i:passport)|여권",
    "licence": r"(?i:driv|licen[cs]e n)|면허",
    "account": r"(?i:iban|account|acct)|계좌|[A-Z]{2}\d{2}[ ]?[A-Z\d]{4}",
    "ip": r"\d\.\d{1,3}\.\d{1,3}\.\d|[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){3}",
    "email": r"@|골뱅이|(?i:[\[({<] ?at ?[\])}>])|"
    + rf"(?i: at [a-z0-9\-]{{1,40}}(?: dot |\.| 닷 ?| 점 ?)[a-z]| at (?:{FREE_MAIL}))",
    "secret": (
        r"(?i:passw|passphrase|secret|token|credential|api.?key|access.?key|authorization|bearer|private key)"
        r"|비밀번호|비번|암호|패스워드|토큰|인증키|시크릿|키 ?값|API ?키|액세스 ?키"
        r"|sk-|pk_|sk_|rk_|gh[a-z]_|github_pat|glpat|xox|AKIA|ASIA|AIza|ya29|hf_|npm_|pypi-|dop_v1|SG\.|eyJ"
        r"|mulle_|hooks\."
    ),
    "address": (
        r"[가-힣](?:시|군|구)[ ]{0,2}[가-힣A-Za-z0-9·.]{1,16}(?:로|길|동|읍|면|리|가)[ ]{0,2}(?:지하|산)?[ ]?\d"
        r"|\d동[ ]{0,2}\d|[가-힣](?:읍|면)[ ]{0,2}[가-힣A-Za-z0-9·.]{1,16}(?:로|길|리)[ ]{0,2}\d"
        r"|(?:서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|충북|충남|전북|전남|경북|경남|제주)[가-힣 ]{1,24}\d"
        r"|(?:주소|자택|거주지|배송지|사는 곳|살고)[^\n]{0,24}\d"
        r"|(?i:\d[ ,]{1,2}(?:[a-z0-9.'\-]{1,20}[ ,]{1,2}){0,4}(?:st|street|ave|avenue|rd|road|blvd|boulevard|dr|drive|"
        r"ln|lane|ct|court|pl|place|way|terrace|square|sq|hwy|highway|parkway|pkwy)[^a-z])"
        r"|(?i:[a-z](?:-ro|-gil|-daero|-dong|daero|beon-gil)[^a-z])|(?i:p\.? ?o\.? ?box)"
    ),
    "name": (
        rf"(?:{SURNAMES})[ ]?(?:[{GIVEN}][ ]?){{1,2}}(?:{TITLES})"
        rf"|(?:{NAME_LABELS_KO})|저는|전 |제가|나는|라고 ?(?:합|해|하|불)|이름"
        r"|(?i:name|i am |i'm |i’m |this is |mr\.?s? |ms\.? |dr\.? |prof|regards|sincerely|contact|attn|dear |signed)"
        rf"|(?:{SURNAMES_LATIN}),?[ ][A-Z]|[a-z]-[A-Za-z]{{2,7}}[ ](?:{SURNAMES_LATIN})"
    ),
}

TRIGGER = "|".join(
    f"(?:{source})" if not source.startswith("(?i)") else f"(?i:{source[4:]})" for source in FAMILIES.values()
)
_COMPILED = re.compile(TRIGGER)


def could_hold(text: str) -> bool:
    """False only where `mask` has nothing to look for."""
    return _COMPILED.search(text) is not None
