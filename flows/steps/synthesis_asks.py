"""What the synthesis asks an LLM about a catalogue entry, and how its text is read back. Pure.

The prompt shows worked examples before the entry and ends where the first question begins, so that a small
pretrained model can go on in that form (it still repeats the instructions at times: such text is `unparsed`);
their tools are invented, so an echoed example never passes for knowledge about a real one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import json_repair

from lake.files import canonical_json, sha256_bytes
from lake.schemas.rows import Tool
from lake.spotlight import one_line

ASK_VERSION = "ask-2"
STOP = ("\n도구:", "\nTool:")

_KO = """이 도구에 대해 궁금해할 만한 질문 {n}가지와 답변을 만들어줘.
질문은 도구 이름을 모르는 사람이 필요한 일을 말하듯이 쓰고, 답변은 소개에 있는 내용만으로 한 문장으로 써줘.

도구: 새벽노트
소개: 회의를 녹음하면 자동으로 글로 옮기고 요약해 주는 앱입니다. 휴대폰에서 무료로 쓸 수 있습니다.
질문: 회의 녹음을 글로 바꿔 주는 앱 있어?
답변: 회의를 녹음하면 자동으로 글로 옮기고 요약해 줍니다.
질문: 휴대폰에서 돈 안 내고 회의록 정리하고 싶어요
답변: 휴대폰에서 무료로 쓸 수 있고 회의 내용을 요약해 줍니다.

도구: 물결차트
소개: 표를 붙여 넣으면 막대그래프와 선그래프를 그려 주는 웹 서비스입니다. 그림 파일로 내려받을 수 있습니다.
질문: 엑셀 표로 그래프 빨리 그리는 방법
답변: 표를 붙여 넣으면 막대그래프와 선그래프를 그려 줍니다.
질문: 그래프를 그림 파일로 저장할 수 있는 사이트 추천해줘
답변: 그린 그래프를 그림 파일로 내려받을 수 있습니다.

도구: {name}
소개: {about}
질문:"""

_EN = """Write {n} questions that people could ask about this tool, and their answers.
Write each question like someone who needs something done and does not know the tool's name; answer in one \
sentence, with what the description says and nothing else.

Tool: Dawnpad
Description: An app that records meetings, turns them into text and sums them up. Free on phones.
Q: is there an app that turns meeting recordings into text?
A: It records meetings and turns them into text with a summary.
Q: I want meeting notes on my phone without paying
A: It is free on phones and sums up your meetings.

Tool: Wavechart
Description: A web service that draws bar and line charts from a pasted table. Charts can be saved as images.
Q: quick way to make a chart from a spreadsheet table
A: It draws bar and line charts from a table that you paste.
Q: which site lets me save charts as image files?
A: Its charts can be saved as images.

Tool: {name}
Description: {about}
Q:"""

_EXAMPLE = re.compile(r"^(?:질문|Q): (.+)$", re.MULTILINE)
EXAMPLE_QUESTIONS = tuple(_EXAMPLE.findall(_KO) + _EXAMPLE.findall(_EN))

_QUESTION_LINE = re.compile(r"^\W*(?:\d+\s*[.)]\s*)?\W*(?:질문|question|q)\s*\d*\s*\**\s*[:：.]\s*\**\s*(.*)$", re.I)
_ANSWER_LINE = re.compile(r"^\W*(?:\d+\s*[.)]\s*)?\W*(?:답변|답|answer|a)\s*\d*\s*\**\s*[:：.]\s*\**\s*(.*)$", re.I)
_TOOL_LINE = re.compile(r"^\W*(?:도구|소개|tool|description)\s*[:：]", re.I)
_QUESTION_KEYS = ("question", "질문", "q", "Q")
_ANSWER_KEYS = ("answer", "답변", "답", "a", "A")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request to the LLM."""

    tool: Tool
    lang: str
    messages: list[dict[str, str]]
    max_tokens: int
    temperature: float

    def key(self, model: str) -> str:
        """Content hash: the same ask of the same model need not be asked twice in a run."""
        content = [ASK_VERSION, model, self.messages, self.max_tokens, self.temperature, STOP]
        return sha256_bytes(canonical_json(content))


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and an answer as the model wrote them, each on one line."""

    question: str
    answer: str


def make_ask(tool: Tool, lang: str, per_tool: int, max_tokens: int, temperature: float) -> Ask:
    """The ask for `per_tool` pairs about `tool` in `lang`."""
    template = _KO if lang == "ko" else _EN
    text = template.format(n=per_tool, name=one_line(tool.name), about=one_line(tool.text(lang)))
    return Ask(tool, lang, [{"role": "user", "content": text}], max_tokens, temperature)


def _pick(value: Mapping[str, Any], keys: Sequence[str]) -> str:
    found = next((value[key] for key in keys if isinstance(value.get(key), str)), "")
    return one_line(found)


def _from_json(text: str) -> list[Pair]:
    """Pairs out of a JSON list of objects, or an object that holds one; broken JSON is repaired."""
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
