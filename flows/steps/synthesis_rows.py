"""From what a model wrote to rows of the synthetic table: parsed, filtered, mistyped where asked for, kept away from
other questions, given the context that a user's question would get, and judged. Every pair that goes is a `Drop`.

Writes nothing; asks nothing but the retriever.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import polars as pl

from flows.steps.asking import Reply
from flows.steps.synthesis_asks import Ask
from flows.steps.synthesis_filter import check_pair, house_answer
from flows.steps.synthesis_frames import framed
from flows.steps.synthesis_names import CatalogNames
from flows.steps.synthesis_near import too_near
from flows.steps.synthesis_parse import Pair, parse_pairs
from flows.steps.typos import mistype
from lake.errors import QuestionError
from lake.files import canonical_json, sha256_bytes
from lake.location import LakeDir
from lake.prompt import Prompt, PromptBuilder
from lake.rules.ground import grounded
from lake.rules.split import draw
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import Reject
from lake.tables import scan

_LOGGED_SCORES = 1_000
MIN_REFERENCE = 20  # scores without which it can't be said which are low


class Found(Protocol):
    """What a retrieval must hold."""

    @property
    def items(self) -> list[RetrievedItem]: ...


class Searcher(Protocol):
    """The part of `Retriever` that is used."""

    def search(self, question: str, top_k: int, lang: str | None = None) -> Found: ...


@dataclass(frozen=True, slots=True)
class Kept:
    """A pair on its way through the filters."""

    ask: Ask
    pair: Pair


@dataclass(frozen=True, slots=True)
class Drop:
    """A pair, or a whole ask, that went."""

    ask: Ask
    reject: Reject

    @classmethod
    def of(cls, ask: Ask, reason: str, sample: str = "") -> Drop:
        return cls(ask, Reject(ask.subject, reason, sample))


@dataclass(frozen=True, slots=True)
class Row:
    """A finished row, with the prompt that its question leads to."""

    ask: Ask
    prompt: Prompt
    items: list[RetrievedItem]
    answer: str
    judge: str | None = None

    def stored(self, run_id: str, source: str) -> dict[str, Any]:
        """As the synthetic table takes it."""
        tool_id = self.ask.tool.id if self.ask.tool else ""
        content = canonical_json([run_id, tool_id, self.prompt.question, self.answer])
        return {
            "synthetic_id": "syn-" + sha256_bytes(content)[:20],
            "timestamp": datetime.now(UTC),
            "run_id": run_id,
            "tool_id": tool_id,
            "question": self.prompt.question,
            "answer": self.answer,
            "lang": self.ask.lang,
            "source": source,
            "retrieved_items": [_stored(item) for item in self.items],
            "kind": self.ask.kind,
            "judge": self.judge,
        }


def _stored(item: RetrievedItem) -> dict[str, Any]:
    """An item with the scores that the table has columns for."""
    scores = {name: item.scores.get(name) for name in ("dense", "lexical", "rerank")}
    return asdict(item) | {"scores": scores}


def read_pairs(
    answered: Iterable[tuple[Ask, Reply]], per_tool: int, names: CatalogNames, min_grounding: float, seed: int
) -> tuple[list[Kept], list[Drop], int]:
    """Pairs that pass the rules about one pair, the others, and how many pairs were read at all."""
    kept: list[Kept] = []
    drops: list[Drop] = []
    parsed = 0
    for ask, reply in answered:
        if reply.answer is None:
            drops.append(Drop.of(ask, reply.failure, reply.message))
            continue
        text = reply.answer.text
        pairs = parse_pairs(text, reply.answer.finish_reason == "length")
        parsed += len(pairs)
        if not pairs:
            drops.append(Drop.of(ask, "unparsed", text))
        drops += [Drop.of(ask, "surplus", pair.question) for pair in pairs[per_tool:]]
        for pair in pairs[:per_tool]:
            if ask.form == "lines" and ask.tool is not None:
                other = ask.other.name if ask.other else ""
                question = framed(ask.kind, ask.lang, pair.question, ask.tool.name, other, seed)
                pair = replace(pair, question=question)
            fine, reason = check_pair(pair, ask, names, min_grounding)
            if not fine:
                drops.append(Drop.of(ask, reason, f"{pair.question} / {pair.answer}"))
                continue
            if ask.kind == "typo":
                pair = replace(pair, question=mistype(pair.question, str(seed)))
            kept.append(Kept(ask, pair))
    return kept, drops, parsed


def drop_near(
    kept: Sequence[Kept], others: Iterable[tuple[str, Sequence[str]]], threshold: float
) -> tuple[list[Kept], list[Drop]]:
    """Without questions near one of `others` (reason, questions), or near an earlier one of this run."""
    near = too_near([one.pair.question for one in kept], others, threshold)
    fine = [one for place, one in enumerate(kept) if place not in near]
    return fine, [Drop.of(kept[place].ask, reason, kept[place].pair.question) for place, reason in sorted(near.items())]


def logged_scores(lake_dir: LakeDir, seed: int, index_version: str | None) -> list[float]:
    """The best item's score of some logged questions, of this index where it says its version."""
    frame = scan(lake_dir, "requests").filter(pl.col("retrieved_items").list.len() > 0)
    if index_version is not None:
        frame = frame.filter(pl.col("index_version") == index_version)
    scores = frame.select("request_id", score=pl.col("retrieved_items").list.first().struct.field("score")).collect()
    ordered = sorted(scores.drop_nulls().iter_rows(), key=lambda row: draw(seed, row[0]))
    return [float(score) for _, score in ordered[:_LOGGED_SCORES]]


def with_context(
    kept: Sequence[Kept],
    retriever: Searcher,
    builder: PromptBuilder,
    top_k: int,
    reference: Sequence[float],
    quantile: float,
) -> tuple[list[Row], list[Drop]]:
    """Rows whose tools stand in the prompt that their question leads to; for a question without an answer, rows for
    which nothing good was found: a best score below the `quantile` of those of answered and logged questions.
    """
    rows: list[Row] = []
    drops: list[Drop] = []
    found: list[tuple[Kept, Row]] = []
    for one in kept:
        items = retriever.search(one.pair.question, top_k, one.ask.lang).items
        try:
            prompt = builder.build(one.pair.question, items)
        except QuestionError:
            drops.append(Drop.of(one.ask, "bad_question", one.pair.question))
            continue
        found.append((one, Row(one.ask, prompt, items, house_answer(one.pair, one.ask))))
    scores = [*reference, *(row.items[0].score for one, row in found if one.ask.tool and row.items)]
    limit = float(np.quantile(scores, quantile)) if len(scores) >= MIN_REFERENCE else None
    for one, row in found:
        reason = _misplaced(row, limit)
        if reason:
            drops.append(Drop.of(one.ask, reason, row.prompt.question))
        else:
            rows.append(row)
    return rows, drops


def _misplaced(row: Row, limit: float | None) -> str:
    """Why a row's context does not fit its answer; empty where it does."""
    shown = set(row.prompt.used_ids)
    if row.ask.tool is None:
        if limit is None:
            return "no_reference"
        if row.items and row.items[0].score >= limit:
            return "catalogue_may_answer"
    elif row.ask.tool.id not in shown:
        return "not_retrieved"
    elif row.ask.other is not None and row.ask.other.id not in shown:
        return "other_not_retrieved"
    return "" if grounded(row.answer, row.items, row.prompt.used_ids, row.prompt.text)[0] else "answer_ungrounded"
