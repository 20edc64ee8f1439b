"""Which questions and answers are fit to train on. Each rule is pure: `KEEP`, or `(False, reason)`.

Rules about the question hold for every row, rules about the answer for every label, rules about how an answer
was served (`served`) only where the served answer itself is the label: a person's golden answer is none the
worse for the model's own having been cut off.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from lake.text import detect_lang

Verdict = tuple[bool, str]
KEEP: Verdict = (True, "")

# Chat turns around prompt and completion: bos, two role lines and their markers, at most this many tokens.
TEMPLATE_TOKENS = 16

# What people write to make a model drop its task. Few and plain on purpose: a hit costs one training row, and
# each is counted. Rows with a golden answer are exempt, since a person has seen them.
INJECTION_PATTERNS = (
    r"\b(?:ignore|disregard|forget)\b.{0,40}\b(?:previous|prior|above|earlier|all)\b.{0,40}"
    r"\b(?:instruction|prompt|rule|message|context)s?\b",
    r"\b(?:reveal|print|show|repeat)\b.{0,40}\b(?:system|hidden|initial)\s+prompt\b",
    r"\byou are now\b.{0,60}\b(?:dan|jailbroken|unrestricted|developer mode)\b",
    r"(?:이전|위의?|앞의?|기존|모든)\s*(?:지시|명령|지침|프롬프트|규칙)\S*\s*.{0,20}(?:무시|잊어|따르지)",
    r"(?:시스템|숨겨진)\s*프롬프트.{0,20}(?:보여|출력|알려|공개|말해)",
    r"<\s*/?\s*(?:start_of_turn|end_of_turn|bos|eos|s)\s*>|<\|[a-z_]+\|>|\[/?INST\]",
    r"(?:^|\n)\s*(?:system|assistant|답변)\s*[:：]",
)
_INJECTION = re.compile("|".join(INJECTION_PATTERNS), re.IGNORECASE | re.DOTALL)

_REFUSAL = re.compile(
    r"(?:죄송|미안)(?:합니다|하지만|해요).{0,60}(?:없습니다|못합니다|어렵습니다|수\s*없)"
    r"|(?:i['’]m sorry|i am sorry|i apologi[sz]e).{0,80}(?:can(?:no|['’])t|unable|not able)"
    r"|as an ai (?:language )?model|(?:저는|나는)\s*(?:ai|인공지능)\s*(?:언어\s*)?모델",
    re.IGNORECASE | re.DOTALL,
)
_LABEL_LINE = re.compile(r"^(?:추천|이유|링크|Recommendation|Reason|Link)\s*:\s*", re.MULTILINE)
_URL = re.compile(r"https?://\S+")


def empty(text: str | None) -> Verdict:
    """No letter and no digit."""
    return KEEP if text and any(char.isalnum() for char in text) else (False, "empty")


def control_chars(text: str) -> Verdict:
    """Control characters other than line breaks and tabs, U+FFFD (a decoding error), or lone surrogates."""
    for char in text:
        if (unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\r\t") or char == "\ufffd":
            return False, "control_chars"
    return KEEP


def injected(text: str) -> Verdict:
    """One of `INJECTION_PATTERNS`."""
    return (False, "injected_instruction") if _INJECTION.search(text) else KEEP


def wrong_language(answer: str, lang: str, names: tuple[str, ...] = ()) -> Verdict:
    """The answer's own words are in another language than `lang`; labels, URLs and `names` don't count."""
    body = _URL.sub(" ", _LABEL_LINE.sub("", answer))
    for name in sorted(names, key=len, reverse=True):
        if name:
            body = body.replace(name, " ")
    if not any(char.isalpha() for char in body):
        return KEEP
    return KEEP if detect_lang(body) == lang else (False, "wrong_language")


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
    return first_failure(empty(question), control_chars(question), KEEP if trusted else injected(question))


def check_answer(answer: str | None, lang: str, names: tuple[str, ...], trusted: bool = False) -> Verdict:
    """Rules about any label."""
    if not empty(answer)[0] or answer is None:
        return False, "empty"
    return first_failure(
        control_chars(answer), KEEP if trusted else injected(answer), wrong_language(answer, lang, names)
    )


def check_served(outcome_value: str, finish_reason: str | None, answer: str | None) -> Verdict:
    """Rules about a served answer that is to be a label itself."""
    return first_failure(outcome(outcome_value), truncated(finish_reason), refused(answer or ""))
