"""Teacher relabelling: a stronger model answers logged questions that nobody labelled, within a budget.

Reads the lake (requests, reviews, feedback, teacher_labels, through the review queue) and the test questions; asks an
OpenAI-compatible endpoint; appends to the tables teacher_labels and rejects. `<work_dir>/<run_id>.plan.json` holds
which requests a run asks about, `<work_dir>/answers.sqlite` every answer that came. Invariants: a label stands in house
style and names only what its prompt showed (`teach_prompt.py`); nothing is asked twice, whatever is killed when; every
question of the plan is a label, a reject with its reason, or unasked because the budget is spent, and the report says
how many of each.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.steps.asking import Asker, ChatClient, LlmAsk, Reply
from flows.steps.budget import Budget
from flows.steps.run_rows import store_rejects, store_rows
from flows.steps.teach_prompt import TEACH_VERSION, Label, make_label, messages, schema, shown_items
from flows.steps.teach_select import Plan, make_plan, read_requests
from flows.teacher_settings import TeacherSettings
from lake.answer_cache import AnswerCache
from lake.errors import InputError, QuestionError
from lake.files import canonical_json, sha256_bytes
from lake.location import LakeDir
from lake.progress import Progress
from lake.prompt import Prompt, PromptBuilder
from lake.rules.label import to_item
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import EvalCase, Reject
from lake.text import detect_lang
from serving.backends import Backend
from serving.client import LLMClient

CACHE_FILE = "answers.sqlite"
FLUSH_LABELS = 200  # rows of one append
_RUN_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}")


@dataclass(slots=True)
class _Open:
    """A question that is being asked, with what its label is checked against."""

    request_id: str
    lang: str
    prompt: Prompt
    items: list[RetrievedItem]


@dataclass(slots=True)
class _Outcome:
    """What a run has come to so far; `labels` and `rejects` are those not stored yet."""

    labels: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    rejects: list[Reject] = field(default_factory=list[Reject])
    reasons: Counter[str] = field(default_factory=Counter[str])
    languages: Counter[str] = field(default_factory=Counter[str])
    served: Counter[str] = field(default_factory=Counter[str])
    labelled: int = 0
    no_tool: int = 0
    stored: int = 0
    unasked: int = 0
    mask_off: frozenset[str] = frozenset()  # types of personal data that stay

    def reject(self, request_id: str, reason: str, sample: str = "") -> None:
        self.reasons[reason] += 1
        self.rejects.append(Reject(request_id, reason, sample))


def patient_client(backend: Backend) -> ChatClient:
    """A client that leaves trying again to the `Asker`."""
    return LLMClient(backend, max_attempts=1)


def check_run_id(run_id: str) -> str:
    """Itself, where it can be part of a file name; else `InputError`."""
    if not _RUN_ID.fullmatch(run_id):
        raise InputError(f"The run id {run_id!r} can't be a file name: use letters, digits, - and _.")
    return run_id


def run_teach(
    lake_dir: LakeDir,
    work_dir: Path,
    run_id: str,
    builder: PromptBuilder,
    backend: Backend,
    tests: Sequence[EvalCase],
    settings: TeacherSettings,
    *,
    limit: int | None = None,
    seed: int = 0,
    make_client: Callable[[Backend], ChatClient] = patient_client,
    progress_path: Path | None = None,
    log: Callable[[str], None] | None = None,
    pause_s: float = 1.0,
    mask_off: Iterable[str] = (),
) -> dict[str, Any]:
    """Label at most `limit` (default: the setting) questions; the report counts every one of the plan.

    What is stored is masked; types of personal data in `mask_off` stay.

    Safe to repeat with the same `run_id`: it goes on where it was. Raises the `BackendError` after which no answer can
    be expected (labels until then are stored), and `SetupError` where another teacher run is going.
    """
    check_run_id(run_id)
    started = time.perf_counter()
    with AnswerCache(work_dir / CACHE_FILE) as cache:
        plan_file = work_dir / f"{run_id}.plan.json"
        plan = make_plan(plan_file, lake_dir, backend.model, settings.order, limit or settings.limit, seed, tests)
        budget = Budget(settings.prices, settings.budget_tokens, settings.budget_cost, cache.spent(run_id))
        say = (lambda line: log(f"{line}; {budget.shown()}")) if log is not None else None
        progress = Progress(progress_path, "teach", len(plan.request_ids), say=say)
        outcome = _Outcome(mask_off=frozenset(mask_off))
        asker = Asker(
            make_client(backend), backend.model, cache, budget, run_id,
            concurrency=settings.concurrency, deadline_s=settings.deadline_s, pause_s=pause_s,
        )  # fmt: skip
        try:
            asyncio.run(_ask(lake_dir, run_id, plan, builder, settings, asker, outcome, progress))
        finally:
            _store(lake_dir, run_id, outcome)
        progress.finish(f"{outcome.labelled} labels, {budget.shown()}")
    return {
        "run_id": run_id,
        "model": backend.model,
        "teach_version": TEACH_VERSION,
        "planned": len(plan.request_ids),
        "labelled": outcome.labelled,
        "stored": outcome.stored,
        "no_suitable_tool": outcome.no_tool,
        "rejected": outcome.reasons.total(),
        "unasked_budget": outcome.unasked,
        "reasons": dict(sorted(outcome.reasons.items())),
        "languages": dict(sorted(outcome.languages.items())),
        "not_planned": plan.counts,
        "calls": dict(sorted(asker.counts.items())),
        "server_lacks": sorted(asker.left_out),
        "prompts_as_served": dict(sorted(outcome.served.items())),
        "tokens": budget.tokens,
        "cost": round(budget.cost, 6),
        "cost_of_failed_calls": round(budget.spent.failed_cost, 6),
        "seconds": round(time.perf_counter() - started, 3),
    }


async def _ask(
    lake_dir: LakeDir,
    run_id: str,
    plan: Plan,
    builder: PromptBuilder,
    settings: TeacherSettings,
    asker: Asker,
    outcome: _Outcome,
    progress: Progress,
) -> None:
    """Every question of the plan, in its order; labels go into the table `FLUSH_LABELS` at a time."""
    under_way: dict[str, _Open] = {}

    def asks() -> Iterator[LlmAsk]:
        for request_id, row in read_requests(lake_dir, plan.request_ids):
            ready = _open_question(request_id, row, builder, outcome)
            if ready is None:
                progress.advance()
                continue
            under_way[request_id] = ready
            shown = shown_items(ready.prompt, ready.items)
            yield LlmAsk(request_id, messages(ready.prompt, ready.lang), settings.max_tokens, schema=schema(shown))

    try:
        async for reply in asker.ask_all(asks()):
            _take(reply, under_way.pop(reply.ask.subject), asker, run_id, outcome)
            progress.advance(note=asker.budget.shown())
            if len(outcome.labels) + len(outcome.rejects) >= FLUSH_LABELS:
                _store(lake_dir, run_id, outcome)
    finally:
        await asker.client.aclose()


def _open_question(
    request_id: str, row: dict[str, Any] | None, builder: PromptBuilder, outcome: _Outcome
) -> _Open | None:
    """The question with the prompt that was served; None where it can't be asked, which is counted."""
    if row is None or row["stored"] is False:
        outcome.reject(request_id, "gone" if row is None else "opted_out")
        return None
    items = [to_item(item) for item in row["retrieved_items"] or []]
    if not items:
        outcome.reject(request_id, "nothing_retrieved", row["user_query"])
        return None
    try:
        prompt = builder.build(row["user_query"], items)
    except QuestionError:
        outcome.reject(request_id, "bad_question", row["user_query"])
        return None
    if row["prompt_sha256"]:
        outcome.served["same" if row["prompt_sha256"] == prompt.sha256 else "other"] += 1
    return _Open(request_id, detect_lang(prompt.question), prompt, items)


def _take(reply: Reply, question: _Open, asker: Asker, run_id: str, outcome: _Outcome) -> None:
    """One reply as a label, a reject, or a question left for a larger budget."""
    answer, prompt = reply.answer, question.prompt
    if answer is None:
        if reply.failure == "budget":
            outcome.unasked += 1
        else:
            outcome.reject(question.request_id, reply.failure, reply.message)
        return
    label = make_label(answer.text, answer.finish_reason, question.lang, prompt, question.items)
    if not isinstance(label, Label):
        outcome.reject(question.request_id, label, answer.text)
        return
    outcome.labelled += 1
    outcome.no_tool += not label.tools
    outcome.languages[question.lang] += 1
    content = canonical_json([asker.model, question.request_id, prompt.sha256, label.answer])
    outcome.labels.append(
        {
            "timestamp": datetime.now(UTC),
            "label_id": "tea-" + sha256_bytes(content)[:20],
            "run_id": run_id,
            "request_id": question.request_id,
            "question": prompt.question,
            "answer": label.answer,
            "lang": question.lang,
            "tools": label.tools,
            "model": asker.model,
            "finish_reason": answer.finish_reason,
            "prompt_sha256": prompt.sha256,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "cost": answer.cost,
            "latency_ms": answer.latency_ms,
        }
    )


def _store(lake_dir: LakeDir, run_id: str, outcome: _Outcome) -> None:
    """Append what this run has not stored yet."""
    if outcome.labels:
        outcome.stored += store_rows(lake_dir, "teacher_labels", "label_id", run_id, outcome.labels, outcome.mask_off)
        outcome.labels = []
    if outcome.rejects:
        store_rejects(lake_dir, run_id, "teach", outcome.rejects, outcome.mask_off)
        outcome.rejects = []
