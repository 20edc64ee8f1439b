"""Base and tuned model answer the same held-out questions through a server; every answer is scored and kept.

Writes `<out_file>` (the evaluation JSON) and rows of the `evaluations` table. Invariant: both arms get
byte-equal prompts at temperature 0; a question that a server fails on counts as a wrong, empty answer with
its reason.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import orjson

from flows.steps.metrics import Scores, aggregate, flips, score_answer
from flows.steps.named_tools import ToolNames
from lake.errors import BackendError, DatasetError
from lake.files import canonical_json, sha256_bytes, write_json_atomic
from lake.location import LakeDir
from lake.progress import Progress
from lake.prompt import Prompt, PromptBuilder
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import EvalAnswer, EvalCase, Tool
from lake.tables import append
from serving.backends import Backend
from serving.client import LLMClient
from serving.retriever import Retrieval

ARMS = ("base", "tuned")


class Searches(Protocol):
    """What is needed of `serving.retriever.Retriever`."""

    def search(self, question: str, top_k: int = 3, lang: str | None = None) -> Retrieval: ...


@dataclass(frozen=True, slots=True)
class AskedCase:
    """A case with what was retrieved for it (what stands in the prompt) and the prompt that both arms get."""

    case: EvalCase
    items: list[RetrievedItem]
    prompt: Prompt


def subset(cases: Sequence[EvalCase], limit: int | None, seed: int) -> list[EvalCase]:
    """At most `limit` cases, spread over language x answerable as in the whole set; the same for the same
    seed.
    """
    if limit is None or limit >= len(cases):
        return list(cases)
    if limit < 1:
        raise DatasetError("limit must be at least 1: leave it out to ask all test questions.")
    strata: dict[tuple[str, bool], list[EvalCase]] = defaultdict(list)
    for case in sorted(cases, key=lambda one: hashlib.sha256(f"{seed}:{one.id}".encode()).digest()):
        strata[(case.lang, bool(case.tools))].append(case)
    quota = {key: len(group) * limit / len(cases) for key, group in strata.items()}
    taken = {key: int(share) for key, share in quota.items()}
    rest = sorted(quota, key=lambda key: (taken[key] - quota[key], key))  # largest remainders first
    for key in rest[: limit - sum(taken.values())]:
        taken[key] += 1
    chosen = {case.id for key, group in strata.items() for case in group[: taken[key]]}
    return [case for case in cases if case.id in chosen]


def prepare(cases: Sequence[EvalCase], retriever: Searches, builder: PromptBuilder, top_k: int) -> list[AskedCase]:
    """Retrieve and build the prompt of each case once, for both arms. Blocks."""
    asked: list[AskedCase] = []
    for case in cases:
        found = retriever.search(case.question, top_k=top_k, lang=case.lang).items
        prompt = builder.build(case.question, found)
        shown = set(prompt.used_ids)
        asked.append(AskedCase(case, [item for item in found if item.id in shown], prompt))
    return asked


async def ask_arms(
    asked: Sequence[AskedCase],
    backends: Mapping[str, Backend],
    backend_name: str,
    concurrency: int,
    max_tokens: int,
    deadline_s: float,
    progress: Progress,
) -> dict[str, list[EvalAnswer]]:
    """Answers by arm, in the order of `asked`.

    The arms take turns, a block of `concurrency` questions each, the first one alternating: two servers on the
    same cores never work at the same time (llama.cpp's threads wait by spinning: measured 5 times slower).
    """
    clients = {arm: LLMClient(backends[arm]) for arm in ARMS}
    answers: dict[str, list[EvalAnswer]] = {arm: [] for arm in ARMS}

    async def one(arm: str, case: AskedCase) -> EvalAnswer:
        answer = await _ask(clients[arm], arm, backend_name, case, max_tokens, deadline_s)
        progress.advance(1, f"{arm} {case.case.id}")
        return answer

    try:
        for arm in ARMS:  # a first call may load the model or compile: not part of any latency
            await _warm(clients[arm])
        for number, start in enumerate(range(0, len(asked), concurrency)):
            block = asked[start : start + concurrency]
            for arm in ARMS if number % 2 == 0 else ARMS[::-1]:
                answers[arm] += await asyncio.gather(*(one(arm, case) for case in block))
    finally:
        for client in clients.values():
            await client.aclose()
    return answers


async def _warm(client: LLMClient) -> None:
    """Raises `BackendError` where a model is not served at all: an evaluation of nothing is worth nothing."""
    await client.probe()


async def _ask(
    client: LLMClient, arm: str, backend_name: str, asked: AskedCase, max_tokens: int, deadline_s: float
) -> EvalAnswer:
    begun = time.perf_counter()
    text, tokens, reason, error = "", None, None, None
    try:
        reply = await client.chat(asked.prompt.messages, max_tokens, temperature=0.0, deadline_s=deadline_s)
        text, tokens, reason = reply.text, reply.completion_tokens, reply.finish_reason
    except BackendError as failure:
        reason, error = "error", f"{failure.code}: {failure}"
    return EvalAnswer(
        case_id=asked.case.id,
        arm=arm,
        backend=backend_name,
        answer=text,
        retrieved_items=asked.items,
        latency_ms=round((time.perf_counter() - begun) * 1000, 1),
        completion_tokens=tokens,
        finish_reason=reason,
        scores={"error": error} if error else {},
    )


def run_evaluate(
    *,
    cases: Sequence[EvalCase],
    tools: Sequence[Tool],
    retriever: Searches,
    builder: PromptBuilder,
    backends: Mapping[str, Backend],
    backend_name: str,
    adapter_id: str | None,
    run_id: str,
    out_file: Path,
    lake_dir: LakeDir | None,
    progress: Progress,
    test_sha256: str = "",
    limit: int | None = None,
    seed: int = 17,
    top_k: int = 3,
    concurrency: int = 4,
    max_tokens: int = 128,
    deadline_s: float = 120.0,
) -> dict[str, Any]:
    """Ask, score, write; returns the report without its items.

    `backends` has the keys base and tuned (one server with two model names, or two servers). `progress`
    counts answers: 2 a case. Raises `BackendError` where one of the models does not answer at all.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    if set(backends) != set(ARMS):
        raise ValueError("backends needs exactly the keys base and tuned")
    asked = prepare(subset(cases, limit, seed), retriever, builder, top_k)
    if not asked:
        raise DatasetError("There is no test question to ask: check the test set and the limit.")
    answers = asyncio.run(ask_arms(asked, backends, backend_name, concurrency, max_tokens, deadline_s, progress))
    names = ToolNames(tools)
    scores = {
        arm: [
            score_answer(
                one.case,
                one.items,
                answer.answer,
                None if answer.finish_reason == "error" else answer.latency_ms,
                names,
            )
            for one, answer in zip(asked, answers[arm], strict=True)
        ]
        for arm in ARMS
    }
    items = [_item(one, {arm: (answers[arm][i], scores[arm][i]) for arm in ARMS}) for i, one in enumerate(asked)]
    report: dict[str, Any] = {
        "run_id": run_id,
        "backend": backend_name,
        "base_model": backends["base"].model,
        "tuned_model": backends["tuned"].model,
        "adapter_id": adapter_id,
        "n": len(asked),
        "of": len(cases),
        "test_sha256": test_sha256,
        "cases_sha256": sha256_bytes(canonical_json([asdict(one.case) for one in asked])),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 2),
        "max_tokens": max_tokens,
        "errors": {arm: _errors(answers[arm]) for arm in ARMS},
        "finish_reasons": {arm: dict(Counter(str(answer.finish_reason) for answer in answers[arm])) for arm in ARMS},
        "metrics": aggregate(scores["base"], scores["tuned"], seed),
        "flips": flips(items),
        "items": items,
    }
    write_json_atomic(out_file, report)
    if lake_dir is not None:
        append(lake_dir, "evaluations", _rows(report, asked, answers, scores, started))
    return {key: value for key, value in report.items() if key != "items"}


def _errors(answers: Sequence[EvalAnswer]) -> dict[str, int]:
    """Failed questions by the error's code."""
    codes = (str(answer.scores["error"]).split(":")[0] for answer in answers if answer.scores.get("error"))
    return dict(Counter(codes))


def _item(asked: AskedCase, arms: Mapping[str, tuple[EvalAnswer, Scores]]) -> dict[str, Any]:
    case = asked.case
    item: dict[str, Any] = {
        "id": case.id,
        "question": case.question,
        "lang": case.lang,
        "kind": case.kind,
        "golden": case.golden,
        "tools": case.tools,
        "also": case.also,
        "prompt_sha256": asked.prompt.sha256,
        "retrieved": [
            {"rank": one.rank, "id": one.id, "name": one.name, "url": one.url, "score": one.score}
            for one in asked.items
        ],
    }
    for arm, (answer, scores) in arms.items():
        item[arm] = {
            "answer": answer.answer,
            "scores": scores,
            "latency_ms": answer.latency_ms,
            "completion_tokens": answer.completion_tokens,
            "finish_reason": answer.finish_reason,
            "error": answer.scores.get("error"),
        }
    return item


def _rows(
    report: Mapping[str, Any],
    asked: Sequence[AskedCase],
    answers: Mapping[str, Sequence[EvalAnswer]],
    scores: Mapping[str, Sequence[Scores]],
    at: datetime,
) -> list[dict[str, Any]]:
    return [
        {
            "timestamp": at,
            "run_id": report["run_id"],
            "backend": report["backend"],
            "arm": arm,
            "adapter_id": report["adapter_id"] if arm == "tuned" else None,
            "question_id": one.case.id,
            "question": one.case.question,
            "lang": one.case.lang,
            "golden": one.case.golden,
            "answer": answer.answer,
            "latency_ms": answer.latency_ms,
            "completion_tokens": answer.completion_tokens,
            "scores": orjson.dumps({**scores[arm][i], **answer.scores}).decode(),
        }
        for arm in ARMS
        for i, (one, answer) in enumerate(zip(asked, answers[arm], strict=True))
    ]
