"""Made questions of any number, and near-duplicates planted by rules that the product was not tuned on. Seeded.

A question is a handful of words (a vocabulary of 20,000, few of them frequent) with particles and one of a score of
endings, so that many questions share their ending, as in a real log. A plant is one question edited once or twice:
a neighbouring key, a letter left out or doubled, a vowel that sounds alike, particles dropped, the last words put
first, spaces taken out or put in, another politeness, a filler.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from itertools import accumulate

_SYLLABLES = (
    "가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허고노도로모보소오조초코토포호구누두루무부수우주추쿠투푸후"
    "기니디리미비시이지치키티피히각난달람밥상작천한건널먼번선연전정청해회용관문분산생성신안업원인일장재제통행형화"
)
_PARTICLES = (
    "을",
    "를",
    "이",
    "가",
    "은",
    "는",
    "에",
    "에서",
    "로",
    "으로",
    "과",
    "와",
    "의",
    "도",
    "만",
    "까지",
    "부터",
    "하고",
)
_ENDINGS = (
    *("추천해줘", "추천해 주세요", "있나요?", "있을까요?", "찾고 있어요", "찾습니다", "뭐가 좋을까", "뭐 써야 해?"),
    *(
        "알려줘",
        "하고 싶어요",
        "하는 방법",
        "할 수 있는 프로그램",
        "하는 툴",
        "어떤 게 좋아요?",
        "필요해요",
        "쓸만한 거",
    ),
    *("되는 거 있어?", "하려면?", "해주는 서비스", "프로그램 추천"),
)
_POLITE = (
    "추천해 주시겠어요",
    "소개 부탁드릴게요",
    "알고 계신 분 있나요",
    "가르쳐 주십시오",
    "추천 좀 해봐",
    "있으면 말해 줘",
)
_FILLERS = ("혹시 ", "안녕하세요 ", "급해요 ", "제가 ", "그냥 ")
_ALIKE = str.maketrans("ㅐㅔㅒㅖㅙㅞㅚ", "ㅔㅐㅖㅒㅞㅙㅙ")
_KEYS = ("ㅂㅈㄷㄱㅅㅛㅕㅑㅐㅔ", "ㅁㄴㅇㄹㅎㅗㅓㅏㅣ", "ㅋㅌㅊㅍㅠㅜㅡ")  # the two-set keyboard
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"

Edit = Callable[[str, random.Random], str]


def questions(count: int, seed: int = 1, words: tuple[int, int] = (6, 11)) -> list[str]:
    """`count` questions of so many words; some 70 n-grams each as they come."""
    chance = random.Random(seed)
    vocabulary = ["".join(chance.choices(_SYLLABLES, k=chance.choice((2, 2, 2, 3, 3, 4)))) for _ in range(20_000)]
    often = list(accumulate(1 / (rank + 1) ** 0.8 for rank in range(len(vocabulary))))
    endings = list(accumulate(1 / (rank + 1) ** 0.7 for rank in range(len(_ENDINGS))))
    made: list[str] = []
    for _ in range(count):
        chosen = chance.choices(vocabulary, cum_weights=often, k=chance.randint(*words))
        inflected = [word + (chance.choice(_PARTICLES) if chance.random() < 0.6 else "") for word in chosen]
        made.append(" ".join([*inflected, chance.choices(_ENDINGS, cum_weights=endings)[0]]))
    return made


def _letter(text: str, chance: random.Random, change: Callable[[int, int, int], tuple[int, int, int]]) -> str:
    """One Hangul syllable with other letters (lead, vowel, tail)."""
    places = [place for place, char in enumerate(text) if "가" <= char <= "힣"]
    if not places:
        place = chance.randrange(len(text))
        return text[:place] + text[place + 1 :]
    place = chance.choice(places)
    code = ord(text[place]) - 0xAC00
    lead, vowel, tail = change(code // 588, code % 588 // 28, code % 28)
    return text[:place] + chr(0xAC00 + lead * 588 + vowel * 28 + tail) + text[place + 1 :]


def neighbouring_key(text: str, chance: random.Random) -> str:
    def change(lead: int, vowel: int, tail: int) -> tuple[int, int, int]:
        for row in _KEYS:
            at = row.find(_VOWELS[vowel])
            near = [row[other] for other in (at - 1, at + 1) if at >= 0 and 0 <= other < len(row)]
            if vowels := [one for one in near if one in _VOWELS]:
                return lead, _VOWELS.index(chance.choice(vowels)), tail
        return chance.randrange(len(_LEADS)), vowel, tail

    return _letter(text, chance, change)


def sounds_alike(text: str, chance: random.Random) -> str:
    return _letter(
        text, chance, lambda lead, vowel, tail: (lead, _VOWELS.index(_VOWELS[vowel].translate(_ALIKE)), tail)
    )


def left_out(text: str, chance: random.Random) -> str:
    return _letter(text, chance, lambda lead, vowel, tail: (lead, vowel, 0 if tail else 4))


def doubled(text: str, chance: random.Random) -> str:
    place = chance.randrange(len(text))
    return text[:place] + text[place] + text[place:]


def apart(text: str, chance: random.Random) -> str:
    """Letters typed apart (NFD) and every space gone."""
    return unicodedata.normalize("NFD", text.replace(" ", "")) + chance.choice(("", "!", "ㅠㅠ", "..."))


def without_particles(text: str, chance: random.Random) -> str:
    words = text.split()
    for place in chance.sample(range(len(words)), k=min(2, len(words))):
        for particle in sorted(_PARTICLES, key=len, reverse=True):
            if words[place].endswith(particle) and len(words[place]) > len(particle) + 1:
                words[place] = words[place][: -len(particle)]
                break
    return " ".join(words)


def last_first(text: str, chance: random.Random) -> str:
    words = text.split()
    cut = len(words) - chance.randint(1, 2)
    return " ".join(words[cut:] + words[:cut])


def otherwise_polite(text: str, chance: random.Random) -> str:
    return " ".join([*text.split()[:-1], chance.choice(_POLITE)])


def filler(text: str, chance: random.Random) -> str:
    return chance.choice(_FILLERS) + text


EDITS: tuple[Edit, ...] = (
    neighbouring_key, sounds_alike, left_out, doubled, apart, without_particles, last_first, otherwise_polite, filler,
)  # fmt: skip


def planted(texts: list[str], count: int, seed: int = 2) -> list[tuple[int, str]]:
    """`count` near-duplicates: which text, and how it was asked again."""
    chance = random.Random(seed)
    found: list[tuple[int, str]] = []
    for place in chance.sample(range(len(texts)), count):
        text = texts[place]
        for edit in chance.sample(EDITS, k=chance.choice((1, 1, 2))):
            text = edit(text, chance)
        found.append((place, text))
    return found
