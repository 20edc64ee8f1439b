"""One candidate at a time: what a build keeps, and what it drops for which reason. Pure.

Reads and writes nothing; `flows/steps/build.py` feeds it. Every candidate comes back as a `Kept`, a `Reject`, or a
`RetrievalFailure` (which is dropped as `not_retrieved` as well).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from flows.steps.build_config import BuildConfig
from lake import house_style
from lake.errors import QuestionError
from lake.files import canonical_json, sha256_bytes
from lake.prompt import PromptBuilder
from lake.rules import clean
from lake.rules.depth import Lineage
from lake.rules.ground import NameFinder, called, comparable_name, grounded, repaired, right_tool
from lake.rules.injection import injects
from lake.rules.label import to_item
from lake.rules.pairs import answer_key, check_pair
from lake.rules.render import RenderedRow
from lake.rules.stale import names_of
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import DatasetRow, LabelSource, Reject, RetrievalFailure, Tool
from lake.text import detect_lang, nfc

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question with what was retrieved for it and its label."""

    source_id: str  # request or synthetic id
    key: str  # of the normalised question
    question: str
    lang: str
    retrieved_items: list[RetrievedItem]
    answer: str
    label_source: LabelSource
    label_ids: list[str] = field(default_factory=list[str])  # review, feedback or teacher label that gave the label
    tools: list[str] = field(default_factory=list[str])
    keys: list[str] = field(default_factory=list[str])  # API keys of question and feedback
    finish_reason: str | None = None  # of the label, where a model wrote it
    generation: int = 0
    served: str | None = None  # the answer that was served, and how
    outcome: str = "answered"
    served_finish: str | None = None
    prompt_sha256: str | None = None
    index_version: str | None = None
    embedder: str | None = None

    @property
    def trusted(self) -> bool:
        """A person wrote the answer with the question before their eyes."""
        return self.label_source == "golden"


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of the dataset without its split, and what the limits over all rows look at."""

    rendered: RenderedRow
    candidate: Candidate
    pair: str  # why there is no preference pair, or "pair"

    @property
    def as_served(self) -> bool | None:
        """Whether the prompt is byte for byte the served one; None where that is not known."""
        sha256 = self.candidate.prompt_sha256
        return sha256 == self.rendered.prompt.sha256 if sha256 else None

    @property
    def answer_key(self) -> str:
        return sha256_bytes(answer_key(self.rendered.row.answer).encode())[:32]


@dataclass(frozen=True)
class Known:
    """Every name that an answer could name without having been shown it, and the catalogue's ids by name."""

    finder: NameFinder
    ids: Mapping[str, frozenset[str]]  # comparable name or alias -> tool ids

    @classmethod
    def of(cls, tools: Iterable[Tool], names: Iterable[str] = ()) -> Known:
        """`names`: those that the log holds beside the catalogue's."""
        ids: dict[str, set[str]] = {}
        every = set(names)
        for tool in tools:
            every.add(tool.name)
            for name in names_of(tool):
                ids.setdefault(name, set()).add(tool.id)
        return cls(NameFinder(every), {name: frozenset(found) for name, found in ids.items()})

    def named_by(self, answer: str) -> set[str]:
        """Ids of the catalogue's tools that an answer recommends."""
        parsed = house_style.parse(answer)
        if parsed is not None:
            return set(self.ids.get(comparable_name(parsed.name), ())) if parsed.name else set()
        return {one for name in self.finder.find(answer) for one in self.ids.get(comparable_name(name), ())}


def candidate_of(chosen: Row, heavy: Row, lineage: Lineage) -> Candidate:
    """A chosen label (`lake/rules/label.py`) with the long columns of its request or synthetic row."""
    source: LabelSource = chosen["label_source"]
    served = heavy.get("llm_response_content")
    own = source in clean.SERVED
    if own:
        depth = lineage.depth(heavy.get("model"), heavy.get("adapter"), heavy.get("backend"))
    else:
        depth = lineage.depth(chosen["label_model"]) if chosen["label_model"] else 0
    answer = chosen["answer"] if not own else nfc(served or "").strip()
    keys = {chosen["key_id"], chosen["label_key"]} - {None, ""}
    return Candidate(
        source_id=chosen["source_id"],
        key=chosen["key"],
        question=chosen["question"],
        lang=detect_lang(chosen["question"]),
        retrieved_items=[to_item(item) for item in heavy.get("retrieved_items") or []],
        answer=answer or "",
        label_source=source,
        label_ids=list(chosen["label_ids"] or []),
        tools=list(chosen["tools"] or []),
        keys=sorted(keys),
        finish_reason=heavy.get("finish_reason") if own else chosen["label_finish"],
        generation=depth,
        served=nfc(served).strip() if served else None,
        outcome=heavy.get("outcome") or "answered",
        served_finish=heavy.get("finish_reason"),
        prompt_sha256=heavy.get("prompt_sha256"),
        index_version=heavy.get("index_version"),
        embedder=heavy.get("embedder"),
    )


_injects = lru_cache(maxsize=8192)(injects)  # catalogue texts repeat from row to row


def _bad_context(shown: Sequence[RetrievedItem]) -> bool:
    return any(_injects(text) for item in shown for text in (item.name, item.description, item.chunk_text) if text)


def judge(
    candidate: Candidate, builder: PromptBuilder, config: BuildConfig, known: Known
) -> Kept | Reject | RetrievalFailure:
    """The rendered row of a candidate (without split), or why it is dropped."""

    def reject(reason: str) -> Reject:
        return Reject(candidate.source_id, reason, candidate.question)

    answer, source, items = candidate.answer, candidate.label_source, candidate.retrieved_items
    fine, reason = clean.check_question(candidate.question, candidate.trusted)
    if fine and source in clean.SERVED:
        fine, reason = clean.outcome(candidate.outcome)
    if fine and source in clean.MODEL_WRITTEN:
        fine, reason = clean.check_written(candidate.finish_reason, answer)
    names = tuple(item.name for item in items)
    if fine:
        fine, reason = clean.check_answer(answer, candidate.lang, names, candidate.trusted)
    if not fine:
        return reject(reason)
    try:
        prompt = builder.build(candidate.question, items)
    except QuestionError:
        return reject("bad_question")
    right = _right_tools(candidate, known)
    fine, reason = right_tool(right, items, prompt.used_ids)
    if reason == "not_retrieved" and source in clean.BY_PEOPLE:
        return _failure(candidate, right)
    if not fine:
        return reject(reason)
    shown = [item for item in items if item.id in set(prompt.used_ids)]
    if not candidate.trusted and _bad_context(shown):
        return reject("injected_context")
    repairs: list[str] = []
    if config.ungrounded == "repair":
        answer, repairs = repaired(answer, items, prompt.used_ids)
    fine, reason = clean.first_failure(
        clean.too_long(prompt.text, answer, builder.count_tokens, config.max_prompt_tokens, config.max_tokens),
        grounded(answer, items, prompt.used_ids, prompt.text, known.finder),
    )
    if not fine:
        return reject(reason)
    row = _row(candidate, answer, repairs, shown)
    pair, why = check_pair(
        source, answer, candidate.served, candidate.outcome, candidate.served_finish, candidate.lang, names
    )
    if pair and builder.count_tokens(prompt.text) + builder.count_tokens(candidate.served or "") > config.max_tokens:
        pair, why = False, "too_long"
    if pair:
        row = replace(row, rejected=candidate.served)
    lengths = builder.count_tokens(prompt.text), builder.count_tokens(answer)
    return Kept(RenderedRow(row, prompt, *lengths), candidate, why or "pair")


def _right_tools(candidate: Candidate, known: Known) -> list[str]:
    """The label's tools; where a person did not note them, those that the answer names."""
    if candidate.tools or candidate.label_source not in clean.BY_PEOPLE:
        return candidate.tools
    return _tools_of(candidate.answer, candidate.retrieved_items) or sorted(known.named_by(candidate.answer))


def _row(candidate: Candidate, answer: str, repairs: list[str], shown: Sequence[RetrievedItem]) -> DatasetRow:
    tools = candidate.tools
    if not tools and candidate.label_source not in ("golden", "synthetic"):
        tools = _tools_of(answer, shown)
    category = next((item.category for item in candidate.retrieved_items if item.id in tools), "")
    return DatasetRow(
        row_id="row-" + sha256_bytes(canonical_json([candidate.key, candidate.label_source, answer]))[:16],
        question=candidate.question,
        lang=candidate.lang,
        retrieved_items=candidate.retrieved_items,
        answer=answer,
        label_source=candidate.label_source,
        source_ids=[candidate.source_id, *candidate.label_ids],
        tools=tools,
        category=category,
        generation=candidate.generation,
        repairs=repairs,
    )


def _tools_of(answer: str, shown: Sequence[RetrievedItem]) -> list[str]:
    """Ids of the shown tools that an answer recommends."""
    parsed = house_style.parse(answer)
    if parsed is not None:
        return [item.id for item in called(shown, parsed.name)] if parsed.name else []
    named = NameFinder(item.name for item in shown).find(answer)
    return [item.id for item in shown if item.name in named]


def _failure(candidate: Candidate, right: list[str]) -> RetrievalFailure:
    return RetrievalFailure(
        request_id=candidate.source_id,
        question=candidate.question,
        lang=candidate.lang,
        right_tools=right,
        hard_negatives=[{"id": one.id, "rank": one.rank, "score": one.score} for one in candidate.retrieved_items],
        label_source=candidate.label_source,
        index_version=candidate.index_version,
        embedder=candidate.embedder,
    )
