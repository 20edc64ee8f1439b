"""Which of a model's questions and answers about an entry are fit to train on, and in which words. Pure.

A pair is kept only if its answer's words can be traced to the entry; the kept answer is rendered in house style, with
the model's own sentence as the reason. A comparison must name both tools and give a reason that the other tool's entry
does not give as well; a question without an answer must be answered so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flows.steps.synthesis_asks import Ask
from flows.steps.synthesis_names import CatalogNames
from flows.steps.synthesis_parse import Pair
from lake import house_style
from lake.rules import clean
from lake.rules.ground import comparable_url
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
_SAYS_NONE = re.compile(
    r"없(?:습니다|어요|다|음|네요)|\bno (?:suitable )?tool\b|\bnone of\b|\bnot (?:in|among)\b", re.IGNORECASE
)
_NONE_SENTENCE = {
    "ko": re.compile(r"관련 정보에 (?P<what>[^.!?]{2,120}?) (?:도구|서비스|앱)[은는이가]? 없습니다\."),
    "en": re.compile(r"No tool in the list (?P<what>[^.!?]{2,160})\."),
}
_PLAIN_NONE = {
    "ko": "관련 정보에 부탁하신 일을 해 주는 도구는 없습니다.",
    "en": "No tool in the list does what was asked for.",
}


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


def check_pair(pair: Pair, ask: Ask, names: CatalogNames, min_grounding: float) -> clean.Verdict:
    """Keep, or the first reason against a pair; near-duplicates and retrieval are judged later."""
    fine, reason = _check_texts(pair, ask)
    if not fine:
        return False, reason
    if ask.tool is None:
        return _check_no_answer(pair, ask, names)
    return _check_answered(pair, ask, ask.tool, names, min_grounding)


def _check_texts(pair: Pair, ask: Ask) -> clean.Verdict:
    """What holds for every kind: length, language, nothing injected."""
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
    own_names = tuple(name for tool in (ask.tool, ask.other) if tool for name in (tool.name, *tool.aliases))
    wrong = any(not clean.wrong_language(text, ask.lang, own_names)[0] for text in (question, answer))
    return (False, "wrong_language") if wrong else clean.KEEP


def _check_answered(pair: Pair, ask: Ask, tool: Tool, names: CatalogNames, min_grounding: float) -> clean.Verdict:
    question, answer = pair.question, pair.answer
    shown = [tool, ask.other] if ask.other else [tool]
    in_entries = {name for one in shown for name in names.found(entry_text(one))}
    if names.others(f"{question} {answer}", shown) - in_entries:
        return False, "names_other_tool"
    if any(comparable_url(url) != comparable_url(tool.url) for url in find_urls(answer)):
        return False, "answer_ungrounded"
    if ask.kind in ("need", "typo"):
        if names_tool(question, tool):
            return False, "names_own_tool"
    elif not all(names_tool(question, one) for one in shown):
        return False, "names_no_tool" if ask.kind == "howto" else "names_not_both"
    sentence = reason_sentence(answer)
    if not sentence:
        return False, "too_short"
    share, shared = grounding(sentence, tool)
    if share < min_grounding or shared < MIN_SHARED_WORDS:
        return False, "answer_ungrounded"
    if ask.other is not None and grounding(sentence, ask.other)[0] >= share:
        return False, "no_difference"
    return clean.KEEP


def _check_no_answer(pair: Pair, ask: Ask, names: CatalogNames) -> clean.Verdict:
    if names.found(pair.question):
        return False, "names_other_tool"
    # A small model seldom gets the form right: then it is for the retrieval alone to say that nothing was found.
    says_none = ask.form == "lines" or _SAYS_NONE.search(pair.answer) is not None
    if find_urls(pair.answer) or not says_none:
        return False, "no_refusal"
    return clean.KEEP


def names_tool(text: str, tool: Tool) -> bool:
    """Whether the name or an alias stands in `text`, in any case; a short Latin one as a word of its own."""
    line = one_line(text).casefold()
    return any(_named(line, one_line(name).casefold()) for name in (tool.name, *tool.aliases) if name)


def _named(line: str, name: str) -> bool:
    pattern = rf"(?<![0-9a-z]){re.escape(name)}(?![0-9a-z])" if name.isascii() else re.escape(name)
    return bool(name) and re.search(pattern, line) is not None


def house_answer(pair: Pair, ask: Ask) -> str:
    """The kept answer in house style: the tool and the model's one sentence, or the house refusal."""
    if ask.tool is None:
        return house_style.render(ask.lang, None, _none_sentence(pair, ask.lang), None)
    tool = ask.tool
    return house_style.render(ask.lang, one_line(tool.name), reason_sentence(pair.answer), clean_url(tool.url) or None)


def _none_sentence(pair: Pair, lang: str) -> str:
    """The model's own where it has the form and speaks of the question, else a plain one."""
    match = _NONE_SENTENCE[lang].search(one_line(pair.answer))
    if match is not None:
        asked = {feature for word in content_words(pair.question) for feature in _features(word)}
        said = [_features(word) for word in content_words(match.group("what"))]
        if said and sum(2 * len(word & asked) >= len(word) for word in said) * 2 >= len(said):
            return match.group()
    return _PLAIN_NONE[lang]
