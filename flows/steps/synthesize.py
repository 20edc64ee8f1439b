"""Synthetic questions and answers: asked of an LLM entry by entry, parsed, filtered with reasons, stored.

Reads catalogue tools, test questions (to keep away from them) and the table synthetic; asks an
OpenAI-compatible endpoint; appends to the tables synthetic (source `llm:<model>`) and rejects. Answers of a
run are kept in `<cache_dir>/<run_id>.jsonl`, so a run that was killed goes on where it stopped, and running it
again stores nothing twice. A row's context is what the retriever finds for its question, as for a user's.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

import polars as pl

from flows.steps.build_read import read_test_questions
from flows.steps.synthesis_asks import EXAMPLE_QUESTIONS, Ask, Pair, make_ask, parse_pairs
from flows.steps.synthesis_filter import CatalogNames, check_pair, house_answer
from flows.steps.synthesis_llm import AnswerCache, ChatClient, ask_all
from lake.errors import BackendError, InputError, QuestionError
from lake.files import canonical_json, sha256_bytes
from lake.location import LakeDir
from lake.progress import Progress
from lake.prompt import PromptBuilder
from lake.rules.cluster import near_pairs
from lake.rules.ground import grounded
from lake.rules.shingles import question_key, shingle
from lake.rules.split import draw
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import Reject, Tool
from lake.tables import append, scan
from serving.answers import ChatAnswer
from serving.backends import Backend
from serving.client import LLMClient

_SAMPLE_CHARS = 500


@dataclass(frozen=True, slots=True)
class SynthesisConfig:
    """What decides a synthesis beside its inputs."""

    per_tool: int = 5
    tools: int | None = None  # a seeded subset of so many; None: all
    seed: int = 20_260_101
    korean_share: float = 0.67  # of the asks; the others are English
    concurrency: int = 2
    max_tokens: int = 480
    temperature: float = 0.7
    deadline_s: float = 120.0
    top_k: int = 3
    near_duplicate_threshold: float = 0.4  # as in the build
    min_grounding: float = 0.6  # share of an answer's content words that its entry must hold

    def check(self) -> SynthesisConfig:
        """Itself, or `InputError` naming what is out of range."""
        limits = {
            "per_tool (1 to 20)": 1 <= self.per_tool <= 20,
            "tools (1 or more)": self.tools is None or self.tools >= 1,
            "korean_share (0 to 1)": 0.0 <= self.korean_share <= 1.0,
            "concurrency (1 to 64)": 1 <= self.concurrency <= 64,
            "min_grounding (0 to 1)": 0.0 <= self.min_grounding <= 1.0,
        }
        if wrong := [name for name, fine in limits.items() if not fine]:
            raise InputError(f"The synthesis can't start, out of range: {', '.join(wrong)}.", settings=wrong)
        return self


class Found(Protocol):
    """What a retrieval must hold."""

    @property
    def items(self) -> list[RetrievedItem]: ...


class Searcher(Protocol):
    """The part of `Retriever` that is used."""

    def search(self, question: str, top_k: int, lang: str | None = None) -> Found: ...


@dataclass(frozen=True, slots=True)
class _Kept:
    """A pair on its way through the filters."""

    pair: Pair
    tool: Tool
    lang: str


def choose_asks(tools: Sequence[Tool], config: SynthesisConfig) -> list[Ask]:
    """The asks of a run: a seeded choice of tools, Korean and English spread evenly by share."""
    ordered = sorted(tools, key=lambda tool: (draw(config.seed, tool.id), tool.id))[: config.tools]
    asks: list[Ask] = []
    for number, tool in enumerate(ordered):
        korean = int((number + 1) * config.korean_share) > int(number * config.korean_share)
        lang = "ko" if korean or config.korean_share >= 1.0 else "en"
        asks.append(make_ask(tool, lang, config.per_tool, config.max_tokens, config.temperature))
    return asks


def _parse(
    asks: Sequence[Ask],
    answers: Sequence[ChatAnswer | BackendError],
    tools: Sequence[Tool],
    config: SynthesisConfig,
) -> tuple[list[_Kept], list[Reject], int]:
    """Pairs that pass the rules about one pair, the others, and how many pairs were read at all."""
    names = CatalogNames.of(tools)
    kept: list[_Kept] = []
    rejects: list[Reject] = []
    parsed = 0
    for ask, answer in zip(asks, answers, strict=True):
        if isinstance(answer, BackendError):
            rejects.append(Reject(ask.tool.id, answer.code, str(answer)))
            continue
        pairs = parse_pairs(answer.text, truncated=answer.finish_reason == "length")
        parsed += len(pairs)
        if not pairs:
            rejects.append(Reject(ask.tool.id, "unparsed", answer.text))
        rejects += [Reject(ask.tool.id, "surplus", pair.question) for pair in pairs[config.per_tool :]]
        for pair in pairs[: config.per_tool]:
            fine, reason = check_pair(pair, ask.tool, ask.lang, names, config.min_grounding)
            if fine:
                kept.append(_Kept(pair, ask.tool, ask.lang))
            else:
                rejects.append(Reject(ask.tool.id, reason, f"{pair.question} / {pair.answer}"))
    return kept, rejects, parsed


def _drop_near(
    kept: Sequence[_Kept], known: Sequence[str], test: Sequence[str], threshold: float
) -> tuple[list[_Kept], list[Reject]]:
    """Without questions near a test question, or near an earlier one of this or another run."""
    texts = [*known, *test, *(one.pair.question for one in kept)]
    keys = [question_key(text) for text in texts]
    near: dict[int, set[int]] = {}
    for a, b, _ in near_pairs(shingle(texts), threshold).tuples():
        near.setdefault(b, set()).add(a)  # a < b: a stands earlier
    first_own = len(known) + len(test)
    tests = set(range(len(known), first_own))
    taken = set(range(len(known)))
    taken_keys = {keys[i] for i in taken}
    test_keys = {keys[i] for i in tests}
    fine: list[_Kept] = []
    rejects: list[Reject] = []
    for place, one in enumerate(kept, start=first_own):
        around = near.get(place, set())
        if around & tests or keys[place] in test_keys:
            rejects.append(Reject(one.tool.id, "near_test", one.pair.question))
        elif around & taken or keys[place] in taken_keys:
            rejects.append(Reject(one.tool.id, "duplicate", one.pair.question))
        else:
            taken.add(place)
            taken_keys.add(keys[place])
            fine.append(one)
    return fine, rejects


def _with_context(
    kept: Sequence[_Kept], retriever: Searcher, builder: PromptBuilder, run_id: str, source: str, top_k: int
) -> tuple[list[dict[str, Any]], list[Reject]]:
    """Rows of the synthetic table: those whose tool stands in the prompt that its question leads to."""
    rows: list[dict[str, Any]] = []
    rejects: list[Reject] = []
    now = datetime.now(UTC)
    for one in kept:
        items = retriever.search(one.pair.question, top_k, one.lang).items
        answer = house_answer(one.pair, one.tool, one.lang)
        try:
            prompt = builder.build(one.pair.question, items)
        except QuestionError:
            rejects.append(Reject(one.tool.id, "bad_question", one.pair.question))
            continue
        if one.tool.id not in prompt.used_ids:
            rejects.append(Reject(one.tool.id, "not_retrieved", one.pair.question))
            continue
        if not grounded(answer, items, prompt.used_ids, prompt.text)[0]:
            rejects.append(Reject(one.tool.id, "answer_ungrounded", answer))
            continue
        content = canonical_json([run_id, one.tool.id, one.pair.question, answer])
        rows.append(
            {
                "synthetic_id": "syn-" + sha256_bytes(content)[:20],
                "timestamp": now,
                "run_id": run_id,
                "tool_id": one.tool.id,
                "question": one.pair.question,
                "answer": answer,
                "lang": one.lang,
                "source": source,
                "retrieved_items": [_stored(item) for item in items],
            }
        )
    return rows, rejects


def _stored(item: RetrievedItem) -> dict[str, Any]:
    """An item with the scores that the table has columns for."""
    scores = {name: item.scores.get(name) for name in ("dense", "lexical", "rerank")}
    return asdict(item) | {"scores": scores}


def _store(lake_dir: LakeDir, run_id: str, rows: Sequence[Mapping[str, Any]], rejects: Sequence[Reject]) -> int:
    """Append what this run has not stored yet; the number of new rows."""
    own = pl.col("run_id") == run_id
    there = scan(lake_dir, "synthetic").filter(own).select("synthetic_id").collect()
    stored = set(cast("list[str]", there["synthetic_id"].to_list()))
    new = [row for row in rows if row["synthetic_id"] not in stored]
    if new:
        append(lake_dir, "synthetic", new)
    noted = scan(lake_dir, "rejects").filter(own & (pl.col("stage") == "synthesize"))
    known = Counter(noted.select("reason", "source_id", "sample").collect().iter_rows())
    now = datetime.now(UTC)
    fresh: list[dict[str, Any]] = []
    for one in rejects:
        row = (one.reason, one.source_id, one.sample[:_SAMPLE_CHARS])
        if known[row] > 0:
            known[row] -= 1
            continue
        fresh.append(
            {
                "timestamp": now,
                "run_id": run_id,
                "stage": "synthesize",
                "reason": row[0],
                "source_id": row[1],
                "sample": row[2],
            }
        )
    if fresh:
        append(lake_dir, "rejects", fresh)
    return len(new)


def run_synthesize(
    lake_dir: LakeDir,
    cache_dir: Path,
    run_id: str,
    tools: Sequence[Tool],
    retriever: Searcher,
    builder: PromptBuilder,
    backend: Backend,
    test_file: Path | None,
    config: SynthesisConfig | None = None,
    *,
    make_client: Callable[[Backend], ChatClient] = LLMClient,
    progress_path: Path | None = None,
) -> dict[str, Any]:
    """Ask, filter and store; the report is the yield, however low. Safe to repeat with the same `run_id`.

    A failed ask is counted under its error's code and the rest goes on; where every ask failed, the last
    `BackendError` is raised. Raises `DatasetError` where the test questions can't be read.
    """
    config = (config or SynthesisConfig()).check()
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,80}", run_id) or run_id.startswith("."):
        raise InputError(f"The run id {run_id!r} can't be a file name: use letters, digits, - and _.")
    test = read_test_questions(test_file)
    start = time.perf_counter()
    asks = choose_asks(tools, config)
    progress = Progress(progress_path, "synthesize", len(asks))
    cache = AnswerCache(cache_dir / f"{run_id}.jsonl")

    async def ask() -> tuple[list[ChatAnswer | BackendError], int]:
        client = make_client(backend)  # inside the loop that it belongs to
        return await ask_all(asks, backend.model, client, cache, config.concurrency, config.deadline_s, progress)

    answers, cached = asyncio.run(ask())
    returned = [answer for answer in answers if isinstance(answer, ChatAnswer)]
    if asks and not returned:
        raise next(answer for answer in answers if isinstance(answer, BackendError))
    pairs, rejects, parsed = _parse(asks, answers, tools, config)
    earlier = scan(lake_dir, "synthetic").filter(pl.col("run_id") != run_id).select("question").collect()
    known = [*EXAMPLE_QUESTIONS, *sorted(cast("list[str]", earlier["question"].to_list()))]
    pairs, near = _drop_near(pairs, known, test, config.near_duplicate_threshold)
    source = f"llm:{backend.model}"
    rows, lost = _with_context(pairs, retriever, builder, run_id, source, config.top_k)
    rejects += near + lost
    stored = _store(lake_dir, run_id, rows, rejects)
    progress.finish(f"{len(rows)} kept")
    return {
        "run_id": run_id,
        "source": source,
        "tools": len(asks),
        "asked": len(asks),
        "cached": cached,
        "returned": len(returned),
        "parsed": parsed,
        "kept": len(rows),
        "stored": stored,
        "reasons": dict(sorted(Counter(reject.reason for reject in rejects).items())),
        "languages": dict(Counter(row["lang"] for row in rows)),
        "prompt_tokens": sum(answer.prompt_tokens or 0 for answer in returned),
        "completion_tokens": sum(answer.completion_tokens or 0 for answer in returned),
        "seconds": round(time.perf_counter() - start, 3),
    }
