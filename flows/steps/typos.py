"""Questions as people mistype them: on the Korean two-set keyboard (dubeolsik, KS X 5002) and on QWERTY. Pure.

A Korean word is taken apart into the keys that were pressed, an edit happens to the keys (a neighbour, one too few,
one too many, two swapped), and the input method's own automaton puts syllables together again, so what comes out is
what a keyboard would have produced (`회의` with a neighbour of its `ㅗ` is `히의`). Other slips: spaces lost or too
many, a word in the wrong input mode (`zoom` as `캐ㅐㅡ`, `회의` as `ghldml`), and spellings that sound the same
(`되`/`돼`, `ㅐ`/`ㅔ`). Same text and seed, same slips.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_TAILS = ["", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"]
_BASE, _LAST = 0xAC00, 0xD7A3
# Key of each jamo on a two-set keyboard; compound ones are two keys.
_KEYS = dict(
    zip(
        "ㅂㅈㄷㄱㅅㅛㅕㅑㅐㅔㅁㄴㅇㄹㅎㅗㅓㅏㅣㅋㅌㅊㅍㅠㅜㅡㅃㅉㄸㄲㅆㅒㅖ",
        [*"qwertyuiopasdfghjklzxcvbnm", *"QWERTOP"],
        strict=True,
    )
)
_JAMO = {key: jamo for jamo, key in _KEYS.items()}
_COMPOUND = {
    "ㅘ": "ㅗㅏ", "ㅙ": "ㅗㅐ", "ㅚ": "ㅗㅣ", "ㅝ": "ㅜㅓ", "ㅞ": "ㅜㅔ", "ㅟ": "ㅜㅣ", "ㅢ": "ㅡㅣ",
    "ㄳ": "ㄱㅅ", "ㄵ": "ㄴㅈ", "ㄶ": "ㄴㅎ", "ㄺ": "ㄹㄱ", "ㄻ": "ㄹㅁ", "ㄼ": "ㄹㅂ", "ㄽ": "ㄹㅅ", "ㄾ": "ㄹㅌ",
    "ㄿ": "ㄹㅍ", "ㅀ": "ㄹㅎ", "ㅄ": "ㅂㅅ",
}  # fmt: skip
_JOINED = {parts: whole for whole, parts in _COMPOUND.items()}
_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_HANGUL_WORD = re.compile(r"[가-힣]{2,}")
_LATIN_WORD = re.compile(r"[A-Za-z]{4,}")
_SOUNDS = (
    ("돼", "되"), ("되", "돼"), ("않", "안"), ("했", "햇"), ("었", "엇"), ("있", "잇"), ("같", "갇"), ("에요", "예요"),
    ("데", "대"), ("대", "데"), ("개", "게"), ("게", "개"), ("해", "헤"), ("왜", "외"), ("웬", "왠"), ("요", "여"),
)  # fmt: skip
_CHARS_A_SLIP = 18  # one slip in so many characters, at least one


def _neighbours() -> dict[str, str]:
    """Keys beside, above and below each key (rows are shifted by half a key)."""
    near: dict[str, str] = {}
    for number, row in enumerate(_ROWS):
        for place, key in enumerate(row):
            found = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            if number > 0:
                found += _ROWS[number - 1][place : place + 2]
            if number < len(_ROWS) - 1:
                found += _ROWS[number + 1][max(0, place - 1) : place + 1]
            near[key] = found
    return near


NEIGHBOURS = _neighbours()


def to_keys(text: str) -> str:
    """The keys that type `text` on a two-set keyboard; what is not Hangul stays."""
    out: list[str] = []
    for char in text:
        if _BASE <= ord(char) <= _LAST:
            index = ord(char) - _BASE
            jamo = [_LEADS[index // 588], _VOWELS[index % 588 // 28], _TAILS[index % 28]]
        else:
            jamo = [char]
        for one in jamo:
            out += (_KEYS.get(part, part) for part in _COMPOUND.get(one, one))
    return "".join(out)


def from_keys(keys: str) -> str:
    """What a two-set input method shows after these keys: its automaton, letters beyond it as they are."""
    out: list[str] = []
    lead = vowel = tail = ""

    def flush() -> None:
        nonlocal lead, vowel, tail
        if lead and vowel:
            index = _LEADS.index(lead) * 588 + _VOWELS.index(vowel) * 28 + _TAILS.index(tail)
            out.append(chr(_BASE + index))
        else:
            out.append(lead + vowel + tail)
        lead = vowel = tail = ""

    for key in keys:
        jamo = _JAMO.get(key) or _JAMO.get(key.lower())
        if jamo is None:
            flush()
            out.append(key)
        elif jamo in _VOWELS:
            if tail:  # its last consonant begins the next syllable
                parts = _COMPOUND.get(tail, tail)
                tail = parts[0] if len(parts) == 2 else ""
                moved = parts[-1]
                flush()
                lead, vowel = moved, jamo
            elif vowel and vowel + jamo in _JOINED:
                vowel = _JOINED[vowel + jamo]
            elif vowel:
                flush()
                vowel = jamo
            else:
                vowel = jamo
        elif lead and vowel and not tail and jamo in _TAILS:
            tail = jamo
        elif tail and tail + jamo in _JOINED:
            tail = _JOINED[tail + jamo]
        else:
            flush()
            lead = jamo
    flush()
    return "".join(out)


def _edit(keys: str, rng: random.Random) -> str:
    """One slip of the fingers; the first key mostly is right."""
    place = rng.randrange(min(1, len(keys) - 1), len(keys))
    key, kind = keys[place], rng.choice(("near", "near", "lost", "twice", "swapped"))
    if kind == "near" and (near := NEIGHBOURS.get(key.lower())):
        return keys[:place] + rng.choice(near) + keys[place + 1 :]
    if kind == "lost" and len(keys) > 2:
        return keys[:place] + keys[place + 1 :]
    if kind == "twice":
        return keys[:place] + key + keys[place:]
    return keys[: place - 1] + key + keys[place - 1] + keys[place + 1 :]


def _keyboard(word: str, rng: random.Random) -> str:
    return from_keys(_edit(to_keys(word), rng)) if word[0] >= "가" else _edit(word, rng)


def _wrong_mode(word: str, rng: random.Random) -> str:
    return to_keys(word) if word[0] >= "가" else from_keys(word)


def _sound(word: str, rng: random.Random) -> str:
    usable = [pair for pair in _SOUNDS if pair[0] in word]
    return word.replace(*rng.choice(usable), 1) if usable else word


def _spacing(text: str, rng: random.Random) -> str:
    """A space lost, or one too many within a Hangul word."""
    spaces = [match.start() for match in re.finditer(" ", text)]
    words = [match for match in _HANGUL_WORD.finditer(text) if len(match.group()) >= 3]
    if spaces and (not words or rng.random() < 0.75):
        place = rng.choice(spaces)
        return text[:place] + text[place + 1 :]
    if words:
        match = rng.choice(words)
        place = rng.randrange(match.start() + 1, match.end() - 1)
        return text[:place] + " " + text[place:]
    return text


def _in_word(change: Callable[[str, random.Random], str]) -> Callable[[str, random.Random], str]:
    """`change` on one word of a text that has letters enough; the text as it is where there is none."""

    def slip(text: str, rng: random.Random) -> str:
        words = [*_HANGUL_WORD.finditer(text), *_LATIN_WORD.finditer(text)]
        if not words:
            return text
        match = rng.choice(words)
        return text[: match.start()] + change(match.group(), rng) + text[match.end() :]

    return slip


# How often each slip happens, roughly as in Korean chat: spacing and fingers lead, the wrong mode is rare.
_SLIPS = (
    (5, _in_word(_keyboard)),
    (4, _spacing),
    (3, _in_word(_sound)),
    (1, _in_word(_wrong_mode)),
)


def mistype(text: str, seed: str) -> str:
    """`text` with at least one slip, one in `_CHARS_A_SLIP` characters; unchanged only where nothing can slip."""
    rng = random.Random(f"typos:{seed}:{text}")
    weights = [weight for weight, _ in _SLIPS]
    typed = text
    for _ in range(max(1, len(text) // _CHARS_A_SLIP)):
        (_, slip) = rng.choices(_SLIPS, weights)[0]
        typed = slip(typed, rng)
    for _ in range(20):
        if typed != text:
            break
        typed = rng.choice(_SLIPS)[1](typed, rng)
    return typed
