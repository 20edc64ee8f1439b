"""What a synthesis asks: which tools, which kinds of question, which language, by set shares. Pure.

Same catalogue, seed and settings, same asks, in the same order; fewer tools are a prefix of more. An ask stands for one
kind and language about one entry (two for `compare`, a topic for `no_answer`); a `typo` ask is one for needs, whose
questions are mistyped afterwards; in form `lines` all but `no_answer` ask for needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from flows.steps.asking import LlmAsk
from flows.steps.synthesis_prompts import JSON_SCHEMA, STOP, json_prompt, lines_prompt
from flows.steps.synthesis_sample import Survey
from flows.steps.synthesis_topics import TOPICS
from lake.rules.split import draw
from lake.schemas.rows import Tool
from lake.spotlight import one_line

KINDS = ("need", "howto", "typo", "compare", "no_answer")
LANGS = ("ko", "en")
Form = Literal["lines", "json"]
_MAX_ABOUT_CHARS = 2_000  # of an entry in a prompt
_SHOWN_FIELDS = 20


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the LLM and what its answer is about; `tool` is None where nothing in the catalogue is."""

    kind: str
    lang: str
    tool: Tool | None
    other: Tool | None
    form: Form
    llm: LlmAsk

    @property
    def subject(self) -> str:
        return self.llm.subject


def shares_of(text: str) -> dict[str, float]:
    """`need=0.5,typo=0.1` as shares that sum to 1, in the order of `KINDS`. Raises `ValueError` for anything else."""
    given: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, separator, number = part.partition("=")
        name = name.strip()
        if not separator or name not in KINDS or name in given:
            raise ValueError(f"{part!r} is not one of {', '.join(KINDS)} with a share")
        given[name] = float(number)
        if not 0.0 <= given[name] < float("inf"):
            raise ValueError(f"{part!r} is not a share")
    total = sum(given.values())
    if not total:
        raise ValueError("no kind has a share")
    return {kind: given[kind] / total for kind in KINDS if given.get(kind)}


def spread(shares: Mapping[tuple[str, str], float], count: int) -> list[tuple[str, str]]:
    """`count` cells such that after any number of them each is as near to its share as can be."""
    given: Counter[tuple[str, str]] = Counter()
    chosen: list[tuple[str, str]] = []
    for number in range(1, count + 1):
        cell = max(shares, key=lambda one: shares[one] * number - given[one])
        given[cell] += 1
        chosen.append(cell)
    return chosen


def choose_asks(
    survey: Survey,
    *,
    count: int,
    shares: Mapping[str, float],
    korean_share: float,
    per_tool: int,
    form: Form,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> Iterator[Ask]:
    """One ask for each of the first `count` tools. Tools are read when their ask is taken."""
    by_lang = {"ko": korean_share, "en": 1.0 - korean_share}
    cells = {
        (kind, lang): share * by_lang[lang] for kind, share in shares.items() for lang in LANGS if by_lang[lang] > 0
    }
    chosen = survey.asked_first[:count].tolist()
    for position, (kind, lang) in zip(chosen, spread(cells, len(chosen)), strict=True):
        tool = survey.tools[position]
        other = survey.partner(position) if kind == "compare" else None
        if kind == "compare" and (other is None or one_line(other.name) == one_line(tool.name)):
            kind, other = "need", None  # alone in its category
        yield _ask(kind, lang, tool, other, survey, per_tool, form, max_tokens, temperature, seed)


def _ask(
    kind: str,
    lang: str,
    tool: Tool,
    other: Tool | None,
    survey: Survey,
    per_tool: int,
    form: Form,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> Ask:
    topics = TOPICS[lang]
    values: dict[str, Any] = {
        "n": per_tool,
        "name": one_line(tool.name),
        "about": _about(tool, lang),
        "other": one_line(other.name) if other else "",
        "other_about": _about(other, lang) if other else "",
        "topic": topics[int(draw(seed, f"topic:{tool.id}") * len(topics))],
        "fields": ", ".join(survey.categories[:_SHOWN_FIELDS]),
    }
    text = lines_prompt(kind, lang, values) if form == "lines" else json_prompt(kind, lang, values)
    subject = tool.id if kind != "no_answer" else f"topic:{values['topic']}"
    llm = LlmAsk(
        subject,
        [{"role": "user", "content": text}],
        max_tokens,
        temperature,
        int(draw(seed, f"ask:{kind}:{lang}:{tool.id}") * 2**31),
        STOP if form == "lines" else (),
        JSON_SCHEMA if form == "json" else None,
    )
    return Ask(kind, lang, None if kind == "no_answer" else tool, other, form, llm)


def _about(tool: Tool, lang: str) -> str:
    return one_line(tool.text(lang))[:_MAX_ABOUT_CHARS]
