"""Questions and answers out of what a model wrote: JSON, broken JSON, or `질문:` / `Q:` lines. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import json_repair

from lake.spotlight import one_line

_QUESTION_LINE = re.compile(r"^\W*(?:\d+\s*[.)]\s*)?\W*(?:질문|question|q)\s*\d*\s*\**\s*[:：.]\s*\**\s*(.*)$", re.I)
_ANSWER_LINE = re.compile(r"^\W*(?:\d+\s*[.)]\s*)?\W*(?:답변|답|answer|a)\s*\d*\s*\**\s*[:：.]\s*\**\s*(.*)$", re.I)
_TOOL_LINE = re.compile(r"^\W*(?:도구|소개|주제|tool|description|topic)\s*[:：]", re.I)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_QUESTION_KEYS = ("question", "질문", "q", "Q")
_ANSWER_KEYS = ("answer", "답변", "답", "a", "A")


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and an answer as the model wrote them, each on one line."""

    question: str
    answer: str


def _pick(value: Mapping[str, Any], keys: Sequence[str]) -> str:
    found = next((value[key] for key in keys if isinstance(value.get(key), str)), "")
    return one_line(found)


def _from_json(text: str) -> list[Pair]:
    """Pairs out of a JSON list of objects, or an object that holds one; broken JSON is repaired."""
    text = _THOUGHT.sub("", text)
    body = re.sub(r"^\s*```(?:json)?\s*|\s*```\s*$", "", text)
    if not body.lstrip().startswith(("[", "{")):
        return []
    value: Any = json_repair.loads(body)
    if isinstance(value, dict):
        single = cast(dict[str, Any], value)
        lists = [one for one in single.values() if isinstance(one, list)]
        value = lists[0] if lists else [single]
    entries = cast(list[Any], value) if isinstance(value, list) else []
    objects = [cast(dict[str, Any], one) for one in entries if isinstance(one, dict)]
    pairs = [Pair(_pick(one, _QUESTION_KEYS), _pick(one, _ANSWER_KEYS)) for one in objects]
    return [pair for pair in pairs if pair.question or pair.answer]


def _from_lines(text: str) -> list[Pair]:
    """Pairs out of `질문:` / `답변:` or `Q:` / `A:` lines; text before the first answer is its question."""
    pairs: list[Pair] = []
    question: list[str] = []
    answer: list[str] | None = None

    def close() -> None:
        nonlocal question, answer
        if answer is not None:
            pairs.append(Pair(one_line(" ".join(question)), one_line(" ".join(answer))))
        question, answer = [], None

    for line in text.splitlines():
        if _TOOL_LINE.match(line):  # the model goes on with another tool
            break
        if match := _QUESTION_LINE.match(line):
            close()
            question = [match.group(1)]
        elif (match := _ANSWER_LINE.match(line)) and question and answer is None:
            answer = [match.group(1)]
        elif not line.strip():
            if answer:
                close()
        elif answer is not None:
            answer.append(line)
        else:
            question.append(line)
    close()
    return pairs


def parse_pairs(text: str, truncated: bool = False) -> list[Pair]:
    """The pairs in the model's text, in order; where it was cut off, the last one is left out."""
    pairs = _from_json(text) or _from_lines(text)
    return pairs[:-1] if truncated else pairs
