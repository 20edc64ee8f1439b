"""Questions like those that people ask, made from a catalogue: what the recall of an index is measured with.

A question shares some words with the description it is about, in the asker's order and wording, and rarely names
the tool. Pure and seeded: the same catalogue gives the same questions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from lake.schemas.rows import Tool
from lake.text import detect_lang

_KEPT = 8  # words of a description that a question holds at most
_TEMPLATES = {
    "ko": ("{} 도구 추천해 주세요", "{} 할 때 뭘 쓰면 좋을까요?", "{}", "{} 되는 서비스 있나요"),
    "en": ("a tool for {}", "how can I {}?", "{}", "looking for something that does {}"),
}
_NAMED = {"ko": "{} 사용법 알려 주세요", "en": "how do I use {}"}


def realistic_questions(tools: Sequence[Tool], count: int, seed: int = 0) -> list[str]:
    """At most `count` questions about tools spread over the catalogue; every fourth one names its tool."""
    rng = random.Random(seed)
    picked = sorted(rng.sample(range(len(tools)), min(count, len(tools))))
    return [_question(tools[position], rng, named=number % 4 == 3) for number, position in enumerate(picked)]


def _question(tool: Tool, rng: random.Random, *, named: bool) -> str:
    texts = [text for text in (tool.description_ko, tool.description_en) if text] or [tool.description or tool.name]
    text = rng.choice(texts)
    lang = detect_lang(text)
    if named:
        return _NAMED[lang].format(tool.name)
    words = text.split()
    kept = sorted(rng.sample(range(len(words)), min(_KEPT, max(1, len(words) // 2))))
    part = " ".join(words[place].strip(".,") for place in kept)
    return rng.choice(_TEMPLATES[lang]).format(part)
