"""Which of a model's questions and answers about an entry are fit to train on, and in which words. Pure.

A pair is kept only if its answer's words can be traced to the entry; the kept answer is rendered in house
style, with the model's own sentence as the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.steps.synthesis_asks import Pair
from lake import house_style
from lake.rules import clean
from lake.rules.ground import named_tools
from lake.schemas.rows import Tool
from lake.spotlight import clean_url, find_urls, one_line, split_sentences

MIN_QUESTION_CHARS, MAX_QUESTION_CHARS = 6, 200
MIN_ANSWER_CHARS, MAX_ANSWER_CHARS = 10, 300
MIN_SHARED_WORDS = 2

_WORD = re.compile(r"[0-9A-Za-z+#]+|[가-힣]+")
_HANGUL_ENDINGS = re.compile(
    r"(?:할|될|볼|쓸|줄)?\s*수\s*있(?:습니다|어요|는|다)|(?:합|됩|입|습)니다|(?:해|줘|어|예|이에)요|(?:하|되)는|있는"
    r"|도구|서비스|프로그램|추천|사용"
)
_STOP_TEXT = """
    a an and are as at be by can do does for from has have how i in is it its my of on one or so that the their
    them they this to tool use used user users using which with you your app service software
"""
_STOP_WORDS = frozenset(_STOP_TEXT.split())


@dataclass(frozen=True, slots=True)
class CatalogNames:
    """Names and aliases of all tools by name, to see whether an answer speaks of another one."""

    owner: Mapping[str, str]  # name or alias -> tool id

    @classmethod
    def of(cls, tools: Sequence[Tool]) -> CatalogNames:
        names: dict[str, str] = {}
        for tool in tools:
            names |= {one_line(alias): tool.id for alias in tool.aliases}
        for tool in tools:  # after the aliases: none of them takes a real name away
            names[one_line(tool.name)] = tool.id
        return cls(names)

    def others(self, text: str, tool: Tool) -> set[str]:
        """Names in `text` that belong to other tools."""
        return {name for name in named_tools(text, self.owner) if self.owner[name] != tool.id}


def entry_text(tool: Tool) -> str:
    """All that the catalogue says of a tool but its name."""
    parts = (tool.category, " ".join(tool.tags), tool.description, tool.description_ko, tool.description_en)
    return " ".join(one_line(part) for part in parts)


def content_words(text: str, names: Sequence[str] = ()) -> list[str]:
    """Distinct words that carry meaning: no tool names, stop words, Korean endings or single letters."""
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(re.escape(name), " ", text, flags=re.IGNORECASE) if name else text
    words = (word.lower() for word in _WORD.findall(_HANGUL_ENDINGS.sub(" ", text)))
    return list(dict.fromkeys(word for word in words if len(word) > 1 and word not in _STOP_WORDS))


def _features(word: str) -> set[str]:
    """Hangul words as bigrams, since particles change their ends; others without a plural s."""
    return {word[i : i + 2] for i in range(len(word) - 1)} if word[0] >= "가" else {word.removesuffix("s")}


def grounding(answer: str, tool: Tool) -> tuple[float, int]:
    """Share of the answer's content words that the entry has (half of a word's bigrams will do), and number."""
    names = (one_line(tool.name), *tool.aliases)
    entry = {feature for word in content_words(entry_text(tool), names) for feature in _features(word)}
    said = [_features(word) for word in content_words(answer, names)]
    shared = sum(2 * len(features & entry) >= len(features) for features in said)
    return (shared / len(said) if said else 0.0), shared


def reason_sentence(answer: str) -> str:
    """The one sentence of an answer that becomes the reason."""
    parsed = house_style.parse(answer)
    sentences = split_sentences(parsed.reason if parsed is not None else answer)
    sentence = next((one for one in sentences if len(one) >= MIN_ANSWER_CHARS), "")
    return sentence if not sentence or sentence[-1] in ".!?。！？" else f"{sentence}."


def check_pair(pair: Pair, tool: Tool, lang: str, names: CatalogNames, min_grounding: float) -> clean.Verdict:
    """Keep, or the first reason against a pair; near-duplicates and retrieval are judged later."""
    question, answer = pair.question, pair.answer
    fine, reason = clean.first_failure(
        clean.empty(question),
        clean.empty(answer),
        clean.control_chars(question + answer),
        clean.injected(question),
        clean.injected(answer),
    )
    if not fine:
        return False, reason
    if len(question) < MIN_QUESTION_CHARS or len(answer) < MIN_ANSWER_CHARS:
        return False, "too_short"
    if len(question) > MAX_QUESTION_CHARS or len(answer) > MAX_ANSWER_CHARS:
        return False, "too_long"
    own_names = (tool.name, *tool.aliases)
    for text in (question, answer):
        if not clean.wrong_language(text, lang, own_names)[0]:
            return False, "wrong_language"
    if names.others(f"{question} {answer}", tool) - named_tools(entry_text(tool), names.owner):
        return False, "names_other_tool"
    if any(clean_url(url).rstrip("/") != clean_url(tool.url).rstrip("/") for url in find_urls(answer)):
        return False, "answer_ungrounded"
    sentence = reason_sentence(answer)
    if not sentence:
        return False, "too_short"
    share, shared = grounding(sentence, tool)
    if share < min_grounding or shared < MIN_SHARED_WORDS:
        return False, "answer_ungrounded"
    return clean.KEEP


def house_answer(pair: Pair, tool: Tool, lang: str) -> str:
    """The kept answer in house style."""
    return house_style.render(lang, one_line(tool.name), reason_sentence(pair.answer), clean_url(tool.url) or None)
