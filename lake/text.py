"""Text at the door: NFC once, language by script, hashes of text. Pure."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Literal

Lang = Literal["ko", "en"]

_HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
_LATIN = re.compile(r"[A-Za-z]")


def nfc(text: str) -> str:
    """Unicode Normalization Form C (UAX #15): Hangul jamo typed apart become syllables."""
    return unicodedata.normalize("NFC", text)


def detect_lang(text: str) -> Lang:
    """`ko` where Hangul makes up a tenth or more of the letters, else `en`.

    A Korean question about "Visual Studio Code" has mostly Latin letters, so the bar for Korean is low.
    """
    hangul = len(_HANGUL.findall(text))
    latin = len(_LATIN.findall(text))
    return "ko" if hangul and hangul * 10 >= hangul + latin else "en"


def sha256_text(text: str) -> str:
    """Hex sha256 of the UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sql_text(text: str) -> str:
    """A text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
