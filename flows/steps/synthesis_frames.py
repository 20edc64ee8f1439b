"""Questions of other kinds made of a plain need, for models too small to write them themselves. Pure.

A need (`표로 그래프를 그려 주는 곳`) becomes a question about one tool (`물결차트에서 …`) or about two (`물결차트랑
점선판 중에 …`). Whether the answer still holds is checked afterwards like any other's. Same words and seed, same frame.
"""

from __future__ import annotations

from lake.rules.split import draw
from lake.spotlight import one_line

_FRAMES = {
    "howto": {
        "ko": ("{a}에서 {q}", "{a} 쓰고 있는데요, {q}", "{a}: {q}", "{a}{로} {q}"),
        "en": ("{a}: {q}", "I use {a}, {q}", "in {a}, {q}", "{q} (with {a})"),
    },
    "compare": {
        "ko": (
            "{a}{와} {b} 중에 뭐가 나을까요? {q}",
            "{q} {a}{랑} {b} 중에서 골라 주세요",
            "{a} 쓸지 {b} 쓸지 고민이에요. {q}",
        ),
        "en": ("{a} or {b}? {q}", "{q} - {a} or {b}?", "can't decide between {a} and {b}: {q}"),
    },
}


def framed(kind: str, lang: str, question: str, name: str, other: str, seed: int) -> str:
    """`question` as one of `kind`; as it is where the kind has no frame."""
    frames = _FRAMES.get(kind, {}).get(lang)
    if frames is None:
        return question
    frame = frames[int(draw(seed, f"frame:{name}:{question}") * len(frames))]
    a, b = one_line(name), one_line(other)
    return one_line(frame.format(a=a, b=b, q=question, **_particles(a)))


def _particles(name: str) -> dict[str, str]:
    """`와`, `랑` and `로` in the form that follows `name`; after other letters than Hangul the one for vowels."""
    last = name[-1:]
    tail = (ord(last) - 0xAC00) % 28 if "가" <= last <= "힣" else 0
    rieul = 8  # its place among the final consonants: `로` follows it as it follows a vowel
    return {
        "와": "과" if tail else "와",
        "랑": "이랑" if tail else "랑",
        "로": "으로" if tail not in (0, rieul) else "로",
    }
