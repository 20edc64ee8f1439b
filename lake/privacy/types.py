"""The types of personal data that are masked, and the one form of placeholder for each. Pure.

The form, `(PHONE_NUMBER)`, was chosen for what it passes through unchanged: NFC, `lake.spotlight.one_line` (which
rewrites `<X>` and `[X]`), the house format, JSON and Markdown; the language of a sentence stays what it was (no
Hangul in it), and no tool is called by a word with an underscore, so the answer checks never take one for a tool.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lake.errors import SetupError

PLACEHOLDERS: dict[str, str] = {
    "resident": "(RESIDENT_NUMBER)",
    "foreigner": "(FOREIGNER_NUMBER)",
    "ssn": "(SOCIAL_SECURITY_NUMBER)",
    "passport": "(PASSPORT_NUMBER)",
    "licence": "(DRIVER_LICENCE)",
    "card": "(CARD_NUMBER)",
    "account": "(BANK_ACCOUNT)",
    "business": "(BUSINESS_NUMBER)",
    "phone": "(PHONE_NUMBER)",
    "email": "(EMAIL_ADDRESS)",
    "ip": "(IP_ADDRESS)",
    "secret": "(SECRET_KEY)",
    "address": "(POSTAL_ADDRESS)",
    "name": "(PERSON_NAME)",
}
"""By type, in order of precedence: where two spans overlap, the first type names what covers both."""

PII_TYPES = tuple(PLACEHOLDERS)
RANK = {kind: rank for rank, kind in enumerate(PII_TYPES)}
SEP = r"[ \t]?[\-./~_:,)(|*+\\]?[ \t]{0,2}"  # what may stand between the groups of one number
PLACEHOLDER = re.compile("|".join(map(re.escape, PLACEHOLDERS.values())))


@dataclass(frozen=True, slots=True)
class Span:
    """`text[start:end]` is personal data of type `kind`, in offsets of the text that was searched."""

    start: int
    end: int
    kind: str


def parse_types(names: str | Iterable[str]) -> frozenset[str]:
    """Types out of a comma-separated setting or a sequence; `SetupError` names one that does not exist."""
    listed = names.split(",") if isinstance(names, str) else names
    types = frozenset(name.strip() for name in listed if name.strip())
    if unknown := sorted(types - set(PII_TYPES)):
        raise SetupError(f"Unknown types of personal data: {', '.join(unknown)}. Known: {', '.join(PII_TYPES)}.")
    return types
