"""Text overlap of an answer with its golden answer: chrF, ROUGE-L and token F1 that work for Korean. Pure.

ROUGE-L and token F1 need tokens. Korean agglutinates ("디자인을", "디자인은"), so whitespace words
alone punish every particle, and characters alone reward chance. `tokens` gives both: Latin words and
numbers whole, Hangul one syllable a token, other letters one a character; punctuation and spaces are
left out.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

_TOKEN = re.compile(r"[a-z0-9]+|[\uac00-\ud7a3]|[^\W\d_a-z]", re.IGNORECASE)


def tokens(text: str) -> list[str]:
    """Lower-case tokens in order."""
    return [match.lower() for match in _TOKEN.findall(text)]


def token_f1(answer: str, golden: str) -> float:
    """F1 of the two bags of tokens, 0..1; two empty texts agree."""
    left, right = Counter(tokens(answer)), Counter(tokens(golden))
    if not left or not right:
        return float(left == right)
    shared = sum((left & right).values())
    return _f1(shared, sum(left.values()), sum(right.values()))


def rouge_l(answer: str, golden: str) -> float:
    """F1 of the longest common subsequence of tokens, 0..1."""
    left, right = tokens(answer), tokens(golden)
    if not left or not right:
        return float(left == right)
    return _f1(_lcs(left, right), len(left), len(right))


def chrf(answer: str, golden: str) -> float:
    """chrF (character 6-grams, beta 2) of sacrebleu, 0..100."""
    return float(_chrf().sentence_score(answer, [golden]).score)


_SCORER: list[Any] = []


def _chrf() -> Any:
    if not _SCORER:
        from sacrebleu.metrics.chrf import CHRF

        _SCORER.append(CHRF())
    return _SCORER[0]


def _f1(shared: int, left: int, right: int) -> float:
    return 2 * shared / (left + right)


def _lcs(left: list[str], right: list[str]) -> int:
    row = [0] * (len(right) + 1)
    for one in left:
        before = 0
        for i, other in enumerate(right, start=1):
            before, row[i] = row[i], before + 1 if one == other else max(row[i], row[i - 1])
    return row[-1]
