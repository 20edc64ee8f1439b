"""Which questions and answers are fit to train on. Each rule is pure: `KEEP`, or `(False, reason)`.

Rules about the question hold for every row, rules about the answer for every label, rules about how an answer
was served (`served`) only where the served answer itself is the label: a person's golden answer is none the
worse for the model's own having been cut off.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

from lake.rules.injection import injects
from lake.text import detect_lang

Verdict = tuple[bool, str]
KEEP: Verdict = (True, "")

# Chat turns around prompt and completion: bos, two role lines and their markers, at most this many tokens.
TEMPLATE_TOKENS = 16

# What people wrote themselves, and what a model wrote: only the latter can be a refusal or cut off.
MODEL_WRITTEN = frozenset({"teacher", "synthetic", "positive_feedback", "served"})
SERVED = frozenset({"positive_feedback", "served"})
BY_PEOPLE = frozenset({"golden", "correction"})

_REFUSAL = re.compile(
    r"(?:죄송|미안|유감)(?:합니다|하지만|해요|하게도|스럽게도|스럽지만).{0,60}(?:없습니다|못합니다|어렵습니다|수\s*없|않습니다)"
    r"|(?:도와\s*드릴|답변(?:해|을)?\s*드릴|제공(?:해)?\s*드릴|추천(?:해)?\s*드릴)\s*수(?:가|는)?\s*없"
    r"|(?:요청|질문)에(?:는)?\s*(?:응할|답할|답변할|대답할)\s*수(?:가|는)?\s*없"
    r"|(?:i['’]m sorry|i am sorry|sorry,|i apologi[sz]e|unfortunately).{0,80}(?:can(?:no|['’])t|unable|not able)"
    r"|\bi\s+(?:can(?:no|['’])t|am unable to|am not able to|won['’]t)\s+(?:help|assist|answer|provide|comply|recommend)"
    r"|as an ai (?:language )?(?:model|assistant)|(?:저는|나는)\s*(?:ai|인공지능)\s*(?:언어\s*)?(?:모델|비서)",
    re.IGNORECASE | re.DOTALL,
)
_LABEL_LINE = re.compile(r"^(?:추천|이유|링크|Recommendation|Reason|Link)\s*:\s*", re.MULTILINE)
_URL = re.compile(r"https?://\S+")
_OTHER_SCRIPT_SHARE = 0.5  # of the letters; a Korean or English text may quote a word of another script


def empty(text: str | None) -> Verdict:
    """No letter and no digit."""
    return KEEP if text and any(char.isalnum() for char in text) else (False, "empty")


def control_chars(text: str) -> Verdict:
    """Control characters other than line breaks and tabs, U+FFFD (a decoding error), or lone surrogates."""
    for char in text:
        if (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\r\t") or char == "\ufffd":
            return False, "control_chars"
    return KEEP


def injected(text: str, reason: str = "injected_instruction") -> Verdict:
    """An instruction to the model (`injection.py`)."""
    return (False, reason) if injects(text) else KEEP


def other_script(text: str) -> Verdict:
    """Neither Korean nor English: too many letters are neither Hangul nor Latin."""
    letters = [char for char in text if char.isalpha()]
    if text.isascii() or not letters:
        return KEEP
    other = sum(not ("\uac00" <= char <= "\ud7a3" or _is_latin_or_jamo(char)) for char in letters)
    return KEEP if other <= _OTHER_SCRIPT_SHARE * len(letters) else (False, "wrong_language")


def _is_latin_or_jamo(char: str) -> bool:
    return (
        char < "\u0250" or "\u1100" <= char <= "\u11ff" or "\u3130" <= char <= "\u318f" or "\uff21" <= char <= "\uff5a"
    )


def wrong_language(answer: str, lang: str, names: tuple[str, ...] = ()) -> Verdict:
    """The answer's own words are in another language than `lang`; labels, URLs and `names` don't count."""
    body = _URL.sub(" ", _LABEL_LINE.sub("", answer))
    for name in sorted(names, key=len, reverse=True):
        if name:
            body = body.replace(name, " ")
    if not any(char.isalpha() for char in body):
        return KEEP
    return other_script(body) if detect_lang(body) == lang else (False, "wrong_language")


def outcome(value: str) -> Verdict:
    """The request did not end with an answer."""
    return KEEP if value == "answered" else (False, "error_outcome")


def truncated(finish_reason: str | None) -> Verdict:
    """The model ran into its token limit."""
    return (False, "truncated") if finish_reason == "length" else KEEP


def refused(answer: str) -> Verdict:
    """The model declined; saying that no tool suits is an answer, not a refusal."""
    return (False, "refused") if _REFUSAL.search(answer) else KEEP


def too_long(
    prompt: str, completion: str, count_tokens: Callable[[str], int], max_prompt_tokens: int, max_tokens: int
) -> Verdict:
    """Prompt, or prompt and completion with their chat turns, beyond what the model is trained on."""
    prompt_tokens = count_tokens(prompt) + TEMPLATE_TOKENS
    if prompt_tokens > max_prompt_tokens:
        return False, "prompt_too_long"
    return KEEP if prompt_tokens + count_tokens(completion) <= max_tokens else (False, "too_long")


def first_failure(*verdicts: Verdict) -> Verdict:
    """The first verdict that does not keep the row."""
    return next((verdict for verdict in verdicts if not verdict[0]), KEEP)


def check_question(question: str, trusted: bool = False) -> Verdict:
    """Rules about the question; `trusted` where a person wrote its answer."""
    return first_failure(
        empty(question), control_chars(question), other_script(question), KEEP if trusted else injected(question)
    )


def check_context(texts: Iterable[str]) -> Verdict:
    """Rules about what was retrieved, as the prompt shows it: an answer under such orders may be the orders' own."""
    return first_failure(*(injected(text, "injected_context") for text in texts))


def check_answer(answer: str | None, lang: str, names: tuple[str, ...], trusted: bool = False) -> Verdict:
    """Rules about any label."""
    if not empty(answer)[0] or answer is None:
        return False, "empty"
    return first_failure(
        control_chars(answer), KEEP if trusted else injected(answer), wrong_language(answer, lang, names)
    )


def check_written(finish_reason: str | None, answer: str | None) -> Verdict:
    """Rules about an answer that a model wrote."""
    return first_failure(truncated(finish_reason), refused(answer or ""))


def check_served(outcome_value: str, finish_reason: str | None, answer: str | None) -> Verdict:
    """Rules about a served answer that is to be a label itself."""
    return first_failure(outcome(outcome_value), check_written(finish_reason, answer))
