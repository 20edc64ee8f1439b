"""Synthetic questions and answers: asked of an LLM entry by entry, parsed, filtered with reasons, judged, stored.

Reads the catalogue's tools (a mapped table of any size), the lake's questions and the test questions (to keep away from
them); asks an OpenAI-compatible endpoint within a budget; appends to the tables synthetic (source `llm:<model>`) and
rejects. `<work_dir>/answers.sqlite` keeps every answer by the content of its ask, so a run that is killed at any point
goes on where it stopped, and running it again stores nothing twice. Same catalogue, settings and seed, same asks. A
row's context is what the retriever finds for its question, as for a user's.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flows.steps.asking import Asker, ChatClient, LlmAsk, Reply
from flows.steps.budget import FREE, Budget, Prices
from flows.steps.build_read import read_test_questions
from flows.steps.run_rows import store_rejects, store_rows
from flows.steps.synthesis_asks import KINDS, Ask, Form, choose_asks
from flows.steps.synthesis_judge import JUDGE_VERSION, judge_ask, read_verdict
from flows.steps.synthesis_near import read_questions
from flows.steps.synthesis_prompts import EXAMPLE_QUESTIONS, PROMPTS_VERSION
from flows.steps.synthesis_rows import Drop, Row, Searcher, drop_near, logged_scores, read_pairs, with_context
from flows.steps.synthesis_sample import survey
from flows.steps.teach import CACHE_FILE, check_run_id, patient_client
from lake.answer_cache import AnswerCache
from lake.errors import BackendError, InputError
from lake.location import LakeDir
from lake.progress import Progress
from lake.prompt import PromptBuilder
from lake.schemas.rows import Tool
from serving.backends import Backend

JUDGE_CACHE_FILE = "judge.sqlite"
_JUDGE_TOKENS = 120


@dataclass(frozen=True, slots=True)
class SynthesisConfig:
    """What decides a synthesis beside its inputs."""

    per_tool: int = 5
    tools: int | None = None  # so many of the catalogue, spread over its categories; None: `max_tools`
    max_tools: int = 2_000
    seed: int = 20_260_101
    shares: Mapping[str, float] = field(default_factory=lambda: {"need": 1.0})  # of the asks, by kind
    korean_share: float = 0.67  # of the asks; the others are English
    form: Form = "lines"
    concurrency: int = 2
    max_tokens: int = 480
    temperature: float = 0.7
    deadline_s: float = 120.0
    top_k: int = 3
    near_duplicate_threshold: float = 0.4  # as in the build
    min_grounding: float = 0.6  # share of an answer's content words that its entry must hold
    no_answer_quantile: float = 0.1  # of the best scores of other questions, below which nothing was found
    prices: Prices = FREE
    budget_tokens: int = 0
    budget_cost: float = 0.0

    def check(self) -> SynthesisConfig:
        """Itself, or `InputError` naming what is out of range."""
        shares = list(self.shares.values())
        limits = {
            "per_tool (1 to 20)": 1 <= self.per_tool <= 20,
            "tools (1 or more)": self.tools is None or self.tools >= 1,
            f"shares (of {', '.join(KINDS)}, summing to 1)": set(self.shares) <= set(KINDS)
            and abs(sum(shares) - 1) < 1e-6
            and all(share > 0 for share in shares),
            "korean_share (0 to 1)": 0.0 <= self.korean_share <= 1.0,
            "concurrency (1 to 256)": 1 <= self.concurrency <= 256,
            "min_grounding (0 to 1)": 0.0 <= self.min_grounding <= 1.0,
            "no_answer_quantile (0 to 1)": 0.0 <= self.no_answer_quantile <= 1.0,
        }
        if wrong := [name for name, fine in limits.items() if not fine]:
            raise InputError(f"The synthesis can't start, out of range: {', '.join(wrong)}.", settings=wrong)
        return self


@dataclass(frozen=True, slots=True)
class Judge:
    """The stronger model that says yes or no, and what it may cost."""

    backend: Backend
    prices: Prices = FREE
    budget_tokens: int = 0
    budget_cost: float = 0.0
    concurrency: int = 4
    deadline_s: float = 120.0


def run_synthesize(
    lake_dir: LakeDir,
    work_dir: Path,
    run_id: str,
    tools: Sequence[Tool],
    retriever: Searcher,
    builder: PromptBuilder,
    backend: Backend,
    test_file: Path | None,
    config: SynthesisConfig | None = None,
    judge: Judge | None = None,
    *,
    index_version: str | None = None,
    make_client: Callable[[Backend], ChatClient] = patient_client,
    progress_path: Path | None = None,
    log: Callable[[str], None] | None = None,
    pause_s: float = 1.0,
    mask_off: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Ask, filter, judge and store; the report is the yield, however low. Safe to repeat with the same `run_id`.

    A failed ask is counted under its error's code and the rest goes on; where every ask failed, the last
    `BackendError` is raised. Raises `DatasetError` where the test questions can't be read, and `SetupError` where
    another synthesis is going. Texts are stored masked, but for the types in `mask_off`.
    """
    config = (config or SynthesisConfig()).check()
    check_run_id(run_id)
    test = read_test_questions(test_file)
    started = time.perf_counter()
    surveyed = survey(tools, config.seed)
    asks = list(
        choose_asks(
            surveyed,
            count=min(config.tools or config.max_tools, config.max_tools),
            shares=config.shares,
            korean_share=config.korean_share,
            per_tool=config.per_tool,
            form=config.form,
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=config.seed,
        )
    )
    with AnswerCache(work_dir / CACHE_FILE) as cache:
        budget = Budget(config.prices, config.budget_tokens, config.budget_cost, cache.spent(run_id))
        asker = Asker(
            make_client(backend), backend.model, cache, budget, run_id,
            concurrency=config.concurrency, deadline_s=config.deadline_s, pause_s=pause_s,
        )  # fmt: skip
        replies = ask_with_progress(asker, [ask.llm for ask in asks], "synthesize", progress_path, log)
    failed = [reply for reply in replies if reply.answer is None and reply.failure != "budget"]
    if asks and len(failed) == len(replies):
        raise BackendError(f"Not one of {len(asks)} asks was answered; the last: {failed[-1].message}")
    kept, drops, parsed = read_pairs(
        zip(asks, replies, strict=True), config.per_tool, surveyed.names, config.min_grounding, config.seed
    )
    others = [("near_test", test), ("duplicate", EXAMPLE_QUESTIONS)]
    kept, near = drop_near(kept, _chain(others, read_questions(lake_dir, run_id)), config.near_duplicate_threshold)
    reference = logged_scores(lake_dir, config.seed, index_version) if any(ask.tool is None for ask in asks) else []
    rows, lost = with_context(kept, retriever, builder, config.top_k, reference, config.no_answer_quantile)
    drops += near + lost
    judged: dict[str, Any] = {}
    if judge is not None:
        rows, refused, judged = _judge(rows, judge, work_dir, run_id, make_client, progress_path, log, pause_s)
        drops += refused
    source = f"llm:{backend.model}"
    written = [row.stored(run_id, source) for row in rows]
    stored = store_rows(lake_dir, "synthetic", "synthetic_id", run_id, written, mask_off)
    store_rejects(lake_dir, run_id, "synthesize", [drop.reject for drop in drops], mask_off)
    returned = [reply.answer for reply in replies if reply.answer is not None]
    return {
        "run_id": run_id,
        "source": source,
        "prompts": f"{PROMPTS_VERSION} {config.form}",
        "seed": config.seed,
        "catalogue": len(tools),
        "categories": len(surveyed.categories),
        "tools": len(asks),
        "asked": len(asks),
        "cached": asker.counts["cached"],
        "returned": len(returned),
        "parsed": parsed,
        "kept": len(rows),
        "stored": stored,
        "reasons": _counted(drop.reject.reason for drop in drops),
        "kinds": _counted(row.ask.kind for row in rows),
        "languages": _counted(row.ask.lang for row in rows),
        "by_kind": _by_kind(asks, rows, drops),
        "prompt_tokens": sum(answer.prompt_tokens for answer in returned),
        "completion_tokens": sum(answer.completion_tokens for answer in returned),
        "tokens": budget.tokens,
        "cost": round(budget.cost + judged.get("cost", 0.0), 6),
        "calls": dict(sorted(asker.counts.items())),
        **({"judge": judged} if judge is not None else {}),
        "seconds": round(time.perf_counter() - started, 3),
    }


def ask_with_progress(
    asker: Asker, asks: Sequence[LlmAsk], stage: str, path: Path | None, log: Callable[[str], None] | None
) -> list[Reply]:
    """A reply for each ask, in order; stage, rate, time left and money so far are said while it goes on."""
    say = (lambda line: log(f"{line}; {asker.budget.shown()}")) if log is not None else None
    progress = Progress(path, stage, len(asks), say=say)
    places: dict[int, int] = {id(ask): place for place, ask in enumerate(asks)}
    replies: dict[int, Reply] = {}

    async def go() -> None:
        try:
            async for reply in asker.ask_all(asks):
                replies[places[id(reply.ask)]] = reply
                progress.advance(note=asker.budget.shown())
        finally:
            await asker.client.aclose()

    asyncio.run(go())
    progress.finish(asker.budget.shown())
    return [replies[place] for place in range(len(asks))]


def _chain(
    first: Iterable[tuple[str, Sequence[str]]], second: Iterable[tuple[str, Sequence[str]]]
) -> Iterable[tuple[str, Sequence[str]]]:
    yield from first
    yield from second


def _judge(
    rows: Sequence[Row],
    judge: Judge,
    work_dir: Path,
    run_id: str,
    make_client: Callable[[Backend], ChatClient],
    progress_path: Path | None,
    log: Callable[[str], None] | None,
    pause_s: float,
) -> tuple[list[Row], list[Drop], dict[str, Any]]:
    """The rows that the judge found right, the others, and what it said and cost. Nothing passes unjudged."""
    model = judge.backend.model
    with AnswerCache(work_dir / JUDGE_CACHE_FILE) as cache:
        budget = Budget(judge.prices, judge.budget_tokens, judge.budget_cost, cache.spent(run_id))
        asker = Asker(
            make_client(judge.backend), model, cache, budget, run_id,
            concurrency=judge.concurrency, deadline_s=judge.deadline_s, pause_s=pause_s,
        )  # fmt: skip
        asks = [judge_ask(row.ask.subject, row.prompt, row.answer, _JUDGE_TOKENS) for row in rows]
        replies = ask_with_progress(asker, asks, "judge", progress_path, log)
    kept: list[Row] = []
    drops: list[Drop] = []
    said: Counter[str] = Counter()
    for row, reply in zip(rows, replies, strict=True):
        verdict = read_verdict(reply.answer.text) if reply.answer is not None else None
        said["yes" if verdict else "no" if verdict is False else reply.failure or "unreadable"] += 1
        if verdict:
            kept.append(replace(row, judge=model))
        else:
            reason = "judge_no" if verdict is False else f"judge_{reply.failure or 'unreadable'}"
            drops.append(Drop.of(row.ask, reason, f"{row.prompt.question} / {row.answer}"))
    facts = {"model": model, "version": JUDGE_VERSION, "said": dict(sorted(said.items()))}
    return kept, drops, facts | {"tokens": budget.tokens, "cost": round(budget.cost, 6)}


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _by_kind(asks: Sequence[Ask], rows: Sequence[Row], drops: Sequence[Drop]) -> dict[str, dict[str, Any]]:
    """Asks, kept rows and reasons of each kind."""
    return {
        kind: {
            "asked": sum(ask.kind == kind for ask in asks),
            "kept": sum(row.ask.kind == kind for row in rows),
            "reasons": _counted(drop.reject.reason for drop in drops if drop.ask.kind == kind),
        }
        for kind in KINDS
        if any(ask.kind == kind for ask in asks)
    }
