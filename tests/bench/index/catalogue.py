"""A made catalogue of any size, and an encoder that is quick: what the index bench builds. Seeded, nothing is kept.

Tools have topics; a description is mostly words of its topic, in Korean and in English, so that near tools are near in
meaning as they are in a real catalogue. The encoder adds up a fixed vector for each word.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from lake.schemas.rows import Tool
from serving.encoders import Vectors, normalise

_SYLLABLES = (
    "가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허고노도로모보소오조초코토포호구누두루무부수우주추쿠투푸후"
)
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvz", "aeiou"
_WORD = re.compile(r"\w+")
WORDS, PER_TOPIC, TOPICS = 20_000, 40, 3_000


def _vocabulary(rng: random.Random) -> tuple[list[str], list[str]]:
    korean = ["".join(rng.choices(_SYLLABLES, k=rng.randint(2, 4))) for _ in range(WORDS)]
    english = ["".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 4))) for _ in korean]
    return korean, english


def tools(count: int, seed: int = 1) -> Iterator[Tool]:
    """`count` tools with both descriptions, two tags and a category each."""
    rng = random.Random(seed)
    korean, english = _vocabulary(rng)
    topics = [[rng.randrange(WORDS) for _ in range(PER_TOPIC)] for _ in range(TOPICS)]
    for number in range(count):
        topic = topics[rng.randrange(TOPICS)]
        chosen = [*rng.sample(topic, 9), *(rng.randrange(WORDS) for _ in range(3))]
        ko = [korean[word] for word in chosen]
        en = [english[word] for word in chosen]
        name = f"{en[0].title()}{en[1].title()} {number}"
        yield Tool(
            id=f"t-{number}",
            name=name,
            description="",
            url=f"https://example.org/{number}",
            category=f"분야 {topic[0] % 40}",
            tags=(korean[topic[1]], english[topic[2]]),
            description_ko=f"{' '.join(ko[:4])} 관리를 위한 도구입니다. {' '.join(ko[4:])} 기능이 있습니다.",
            description_en=f"Manages {' '.join(en[:4])} for teams. It offers {' and '.join(en[4:])}.",
        )


class WordEncoder:
    """The sum of its words' vectors, length 1. Stands in for the real encoder, which needs hours for millions.

    What makes a nearest-neighbour search hard is the intrinsic dimension of the vectors. By TwoNN (Facco et al. 2017)
    it is 11 for the bundled encoder over the sample's passages; words drawn freely in 384 dimensions give 50, these 13.
    """

    name, revision, dim = "words", "2", 384
    _LATENT, _NOISE = 10, 0.02  # dimensions that the words share; length of what each has of its own, a dimension

    def __init__(self) -> None:
        draws = np.random.default_rng(7)
        basis = np.linalg.qr(draws.standard_normal((self.dim, self._LATENT)))[0].T
        shared = draws.standard_normal((1 << 15, self._LATENT)) @ basis
        own = draws.standard_normal((1 << 15, self.dim), dtype=np.float32)
        self._table = (shared + self._NOISE * own).astype(np.float32)

    def _encode(self, texts: Sequence[str]) -> Vectors:
        rows = np.empty((len(texts), self.dim), dtype=np.float32)
        for number, text in enumerate(texts):
            words = [zlib.crc32(word.encode()) & 0x7FFF for word in _WORD.findall(text.lower())] or [0]
            rows[number] = self._table[words].sum(axis=0)
        return normalise(rows)

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dim]."""
        return self._encode(texts) if texts else np.zeros((0, self.dim), dtype=np.float32)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dim]."""
        return self.encode_queries(texts)
