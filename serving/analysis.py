"""Text to terms for lexical matching: kiwipiepy morphemes for Korean, plain words for the rest, character
n-grams.

Words carry meaning, n-grams survive typos, missing spaces and compound names. Invariant: the same text gives
the same terms on both sides, at indexing and at asking; thread-safe; no torch.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from kiwipiepy import Kiwi

from lake.tool_table import blocks

_AHEAD = 1024  # documents whose Korean texts are handed over at once
ANALYSIS_VERSION = "terms-2"  # another one whenever the same text would give other terms

# Sejong tags that carry content: nouns, verbs and adjectives, roots, foreign words, numbers.
_CONTENT_TAGS = ("NNG", "NNP", "NR", "VV", "VA", "XR", "SL", "SH", "SN", "MAG")
_WORD = re.compile(r"[a-z0-9][a-z0-9+#]*", re.IGNORECASE)
_HANGUL_RUN = re.compile(r"[\uac00-\ud7a3]+")
_RUN = re.compile(r"[a-z0-9+#\uac00-\ud7a3]+", re.IGNORECASE)

# Words of asking, not of the thing asked for: in every second question and in no description's core.
_KOREAN_STOP = """
것 거 수 데 때 곳 줄 좀 뭐 뭘 뭔가 어디 어떤 어떻다 어떻게 무엇 추천 추천하다 찾다 알리다 주다 쓰다 있다 없다 하다 되다
같다 보다 싶다 좋다 괜찮다 툴 도구 프로그램 서비스 사이트 앱 어플 방법 사용 이용 필요 가능 요즘 혹시 우리 저희 제가 내가
그냥 있 없 하 되 같 보 싶 좋 쓰 주 알 찾 괜찮 어떻 안 못 잘 더 많이
"""
_ENGLISH_STOP = """
a an the i we you my our me us it its is are am be been do does did can could would should will what which who how
where when why to of in on for with from by at as and or but not no so that this these those there any some
something anything someone want wants need needs looking look find recommend recommendation suggest please tool tools
app apps software program service way use using used just like get make lets let good best have has had into out up
without them they their your if than then too very really also im ive id dont
"""
STOP = frozenset((_KOREAN_STOP + _ENGLISH_STOP).split())


@cache
def _kiwi() -> Kiwi:
    # One worker: questions are short, and idle worker threads cost memory. Loading takes about 1.5 s.
    return Kiwi(num_workers=1)


def _kiwi_of_all_cores() -> Kiwi:
    return Kiwi(num_workers=os.cpu_count() or 1)


_lock = threading.Lock()


def analysis_version() -> str:
    """What decides the terms of a text: our rules and the morphological model."""
    return f"{ANALYSIS_VERSION} kiwipiepy-{importlib.metadata.version('kiwipiepy')}"


def warm_up() -> None:
    """Load the Korean model now instead of at the first question."""
    with _lock:
        _kiwi().tokenize("준비")  # the model is loaded by the first call, not by the constructor


_PLURALS = (("sses", "ss"), ("ies", "y"), ("es", ""), ("s", ""))
_PARTICIPLES = (("ing", ""), ("ied", "y"), ("ed", ""))


def _stem(word: str) -> str:
    """A light English stem: plural, then -ing and -ed, no table. Both sides pass through it: it need not be
    right.
    """
    for endings in (_PLURALS, _PARTICIPLES):
        for suffix, keep in endings:
            kept = len(word) - len(suffix)
            if word.endswith(suffix) and kept >= 3 and not word.endswith(("ss", "us", "is")):
                word = word[:kept] + keep
                break
    return word[:-1] if word.endswith("e") and len(word) > 4 else word


def _english(text: str) -> list[str]:
    return [_stem(word) for word in (match.lower() for match in _WORD.findall(text)) if word not in STOP]


def words(text: str) -> list[str]:
    """Content terms in order, with repeats: Korean morphemes, stemmed lower-case Latin words, numbers."""
    if not _HANGUL_RUN.search(text):
        return _english(text)
    with _lock:
        tokens: Any = _kiwi().tokenize(text)
    return _korean(tokens)


def words_of_each(documents: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """`words` of every text of each document, joined, for building an index: the Korean texts are analysed on all
    cores, some hundred ahead of what is taken. For one thread.
    """
    kiwi = _kiwi_of_all_cores()
    for block in blocks(documents, _AHEAD):
        korean = [text for texts in block for text in texts if _HANGUL_RUN.search(text)]
        analysed: Any = kiwi.tokenize(korean)
        for texts in block:
            terms: list[str] = []
            for text in texts:
                terms.extend(_korean(next(analysed)) if _HANGUL_RUN.search(text) else _english(text))
            yield terms


def _korean(tokens: Any) -> list[str]:
    terms: list[str] = []
    for token in tokens:
        form, tag = str(token.form), str(token.tag).split("-")[0]
        if tag in ("SL", "SN"):
            terms.extend(_english(form))
        elif tag in _CONTENT_TAGS and form not in STOP:
            terms.append(form)
    return terms


def ngrams(text: str) -> list[str]:
    """Character n-grams inside words: 2 for Hangul, 3 for Latin (with word edges)."""
    grams: list[str] = []
    for run in _RUN.findall(text.lower()):
        if _HANGUL_RUN.match(run):
            grams.extend(run[i : i + 2] for i in range(len(run) - 1))
        elif run not in STOP:
            edged = f"^{run}$"
            grams.extend(edged[i : i + 3] for i in range(len(edged) - 2))
    return grams
