"""E-mail addresses, public IP addresses, and secrets: what a person or a machine is reached or let in by. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from ko_pii.patterns import email as mail
from ko_pii.patterns import ip as addresses

from lake.privacy.types import Span
from lake.privacy.words import FREE_MAIL, FREE_MAIL_KO

_AT = r"(?:[ \t]?(?:@|[\[({<][ ]?(?:at|@|골뱅이|앳)[ ]?[\])}>])[ \t]?|[ \t]?골뱅이[ \t]?|[ \t]at[ \t])"
_DOT = r"(?:[ \t]?(?:\.|[\[({<][ ]?(?:dot|닷|점|\.)[ ]?[\])}>])[ \t]?|[ \t]dot[ \t]|[ \t]?닷[ \t]?|[ \t]?점[ \t]?)"
_LOCAL = r"[A-Za-z0-9_%+\-]+(?:(?:\.|[ \t]dot[ \t]|[ \t]?[\[({<][ ]?dot[ ]?[\])}>][ \t]?)[A-Za-z0-9_%+\-]+)*"
_TLD = r"(?:com|net|org|edu|gov|io|ai|dev|app|kr|co|me|us|uk|de|jp|cn|info|biz|컴|넷|케이알)"
_SPELLED = re.compile(
    rf"(?<![A-Za-z0-9._%+\-])({_LOCAL})({_AT})((?:[A-Za-z0-9\-]+|{FREE_MAIL_KO})(?:{_DOT}"
    rf"(?:[A-Za-z0-9\-]+))*?{_DOT}{_TLD}(?:{_DOT}{_TLD})?)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_HANGUL_LOCAL = re.compile(
    rf"[가-힣A-Za-z0-9._\-]{{1,20}}[ ]?골뱅이[ ]?(?:{FREE_MAIL_KO}|{FREE_MAIL})(?:[ ]?(?:닷|점|쩜|\.)[ ]?(?:컴"
    rf"|넷|com|net"
    rf"|co|케이알|씨오)(?:[ ]?(?:닷|점|쩜|\.)[ ]?(?:케이알|kr))?)?",
    re.IGNORECASE,
)
_UNICODE_LOCAL = re.compile(r"(?<![\w.@])[\w.+\-]{1,64}@(?:[A-Za-z0-9\-]+\.)+[A-Za-z]{2,24}(?![A-Za-z0-9])")
_FREE = re.compile(FREE_MAIL, re.IGNORECASE)
# A plain " at " before a domain is prose after these ("look at gmail.com").
_PROSE_WORDS = """
look looking available hosted sign signed in up is are found docs page site out work works working based here it them
only data mail email account inbox aimed arrive arrives
"""
_PROSE = frozenset(_PROSE_WORDS.split())


def email(text: str) -> Iterator[Span]:
    """E-mail addresses, and those with the at sign or the dots spelled out or spaced."""
    if "@" in text:
        for found in mail.detect(text):
            yield Span(found.start, found.end, "email")
        for match in _UNICODE_LOCAL.finditer(text):
            yield Span(match.start(), match.end(), "email")
    for match in _SPELLED.finditer(text):
        local, at, domain = match.groups()
        spelled_dot = "." not in domain or re.search(r"[ \t]dot[ \t]", domain, re.IGNORECASE) is not None
        if at.strip().lower() == "at" and not (spelled_dot or (_FREE.match(domain) and local.lower() not in _PROSE)):
            continue
        yield Span(match.start(), match.end(), "email")
    for match in _HANGUL_LOCAL.finditer(text):
        yield Span(match.start(), match.end(), "email")


_RESOLVERS = {"8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "168.126.63.1", "168.126.63.2"}
# What a version looks like: small numbers only, or a word for it in front.
_VERSION = re.compile(
    r"(?:\bv|\bver\.?|version|버전|버젼|release|build|빌드|펌웨어|firmware|\brev\.?|patch|패치|section|§)[ :=]?$",
    re.IGNORECASE,
)
_SMALL = 40
_NETWORK = re.compile(
    r"\bips?\b|서버|server|host|주소|address|접속|ssh|ping|from|방화벽|firewall|dns|gateway", re.IGNORECASE
)


def ip(text: str) -> Iterator[Span]:
    """Public IPv4 and IPv6 addresses; private, reserved and well-known resolvers' ones name no person."""
    for found in addresses.detect(text):
        try:
            address = ipaddress.ip_address(found.text.split("%")[0])
        except ValueError:
            continue
        if not address.is_global or found.text in _RESOLVERS:
            continue
        if address.version == 4:
            named = _VERSION.search(text, max(0, found.start - 12), found.start) is not None
            around = text[max(0, found.start - 20) : found.start] + "\n" + text[found.end : found.end + 12]
            if named or (max(address.packed) <= _SMALL and not _NETWORK.search(around)):
                continue
        yield Span(found.start, found.end, "ip")


# Prefixes that the issuers publish for secret scanners.
_TOKENS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-(?:[a-z]+-)*[A-Za-z0-9_\-]{16,}|(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{10,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_\-]{16,}|xox[abeoprs]-[A-Za-z0-9\-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|AIza[A-Za-z0-9_\-]{30,}|ya29\.[A-Za-z0-9_\-]{20,}|hf_[A-Za-z0-9]{20,}|npm_[A-Za-z0-9]{30,}"
    r"|pypi-[A-Za-z0-9_\-]{30,}"
    r"|dop_v1_[a-f0-9]{40,}|SG\.[A-Za-z0-9_\-]{16,}\.[A-Za-z0-9_\-]{16,}|mulle_[A-Za-z0-9_\-]{16,}"
    r"|eyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]{8,})"
)
_HOOK = re.compile(r"https://hooks\.[a-z.]+/[A-Za-z0-9/_\-]{16,}")
_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[A-Za-z0-9+/=\s]*(?:-----END [A-Z ]*PRIVATE KEY-----)?")
_NAMED = re.compile(
    r"(?:password|passwd|passphrase|pwd|secret(?:[ _-]?(?:access)?[ _-]?key)?|(?:api|access|auth|secret)[ _-]?"
    r"(?:key|token)|bearer token|token)"
    r"[\"']?[ ]?(?:[:=]|is)[ ]?[\"'`]?([^\s\"'`,;<>()가-힣]{4,128})",
    re.IGNORECASE,
)
_NAMED_KO = re.compile(
    r"(?:비밀번호|비번|암호|패스워드|인증키|시크릿|(?:API|액세스|접근|접속) ?(?:키|토큰)|토큰)(?:[ ]?(?:값|번호))?"
    r"(?:는|은|이|가|를)?[ ]?[:=]?[ ]?[\"'`]?([!-&*-+\--~]{4,128})"
)
_BEARER = re.compile(r"\bBearer[ ]+([A-Za-z0-9._~+/\-]{16,}=*)", re.IGNORECASE)
_LOGIN_URL = re.compile(
    r"(?<![A-Za-z])[a-z][a-z0-9+.\-]{1,20}://[^\s/:@\"'<>]{1,64}:[^\s/@\"'<>]{1,128}@[^\s\"'<>)\]]+", re.IGNORECASE
)


def _looks_secret(value: str) -> bool:
    """Whether a value behind "password:" is one, and no word of a sentence: mixed characters."""
    kinds = sum(re.search(kind, value) is not None for kind in (r"[a-z]", r"[A-Z]", r"[0-9]", r"[^A-Za-z0-9.]"))
    return kinds >= 2 and re.search(r"[0-9]|[^A-Za-z0-9.\-/]", value) is not None and "://" not in value


def secret(text: str) -> Iterator[Span]:
    """Tokens with a known prefix, private keys, passwords behind their label, addresses that hold a login."""
    for pattern in (_TOKENS, _HOOK, _KEY_BLOCK, _LOGIN_URL):
        for match in pattern.finditer(text):
            yield Span(match.start(), match.end(), "secret")
    for pattern in (_NAMED, _NAMED_KO):
        for match in pattern.finditer(text):
            if _looks_secret(match.group(1).rstrip(".!?")):
                yield Span(match.start(1), match.end(1), "secret")
    for match in _BEARER.finditer(text):
        yield Span(match.start(1), match.end(1), "secret")
