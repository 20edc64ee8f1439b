"""Promise 6: whatever the LLM server does, every accepted request ends in time, typed and on record.

Each toxic of `toxic.py` × 50 calls of a whole gateway, JSON and streams, for both backends (vLLM's and LM Studio's
profile). Every call ends by its deadline + 1 s with an answer, a degraded answer or one problem; its id is in the
journal with both halves and an outcome that fits; a broken stream's record holds the text that its client saw;
retries stay within 0.2 × requests + 3 over any 10 s; afterwards ordinary calls work.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.clients import Question, Reply, ask
from tests.faults.gateways import Journalled, journalled, make_index, running_gateway
from tests.faults.harness import Progress, Tally, cycles_of, quiet, share
from tests.faults.toxic import TOXICS, ToxicServer, run_toxic
from tests.gateway.kit import Gateway

NAME, PROMISE, UNIT, FULL = "toxics", "1, 6", "toxics × backends, 50 calls each", 2 * len(TOXICS)
CALLS, AT_ONCE = 50, 10
DEADLINE_S = 2.0
PROFILES = ("vllm", "lmstudio")
_HUNG_S = 30.0
_OUTCOMES = {"answered", "llm_error", "llm_timeout", "no_llm"}


@dataclass(slots=True)
class Call:
    """One call: what came, and after how long."""

    reply: Reply | None
    seconds: float
    hung: bool = False


def run(
    cycles: int, seed: int, scratch: Path, progress: Progress = quiet, bug: str = "",
    names: Sequence[str] = tuple(TOXICS), timed: bool = True, calls: int = CALLS, deadline_s: float = DEADLINE_S,
) -> Tally:  # fmt: skip
    """A cycle's seed picks toxic and profile. `bug`: one of `buggy_gateway`; `timed`: deadlines are checked."""
    tally = Tally()
    index = make_index()
    seconds: list[float] = []
    for cycle_seed, rng in cycles_of(cycles, seed, tally, progress):
        name, profile = names[cycle_seed % len(names)], PROFILES[cycle_seed // len(names) % 2]
        data_dir = scratch / f"{cycle_seed}"
        env = {
            "LLM_MODEL_NAME": "toxic", "LLM_PROFILE": profile, "MULLE_WORKERS": "1", "MULLE_LOG_LEVEL": "error",
            "MULLE_REQUEST_DEADLINE_S": f"{deadline_s}", "MULLE_LLM_TIMEOUT_S": f"{deadline_s}",
            # Every second time the breaker stays out of it: else most calls would never meet the toxic.
            "MULLE_BREAKER_OPEN_S": "1", "MULLE_BREAKER_FAILURES": rng.choice(["5", "10000"]),
        }  # fmt: skip
        with run_toxic() as llm, running_gateway(data_dir, index, {**env, "LLM_API_BASE": llm.base}, bug) as gateway:
            done = asyncio.run(_calls(gateway.url, 4, rng))  # connections are open when the fault comes
            llm.behave(name)
            done += _poisoned(gateway, llm, calls, f"{name}, {profile}", cycle_seed, rng, tally)
            seconds += [call.seconds for call in done]
            llm.behave("good")
            done += _until_good(gateway.url, cycle_seed, rng, tally)
        found = journalled(data_dir / "journal")
        for call in done:
            _check(call, found, f"{name}, {profile}", cycle_seed, tally, deadline_s + 1 if timed else _HUNG_S)
        tally.check(not found.unanswered, cycle_seed, f"{name}: {len(found.unanswered)} requests have no response half")
    tally.figures["longest call"] = f"{share(seconds, 1.0):.2f} s of {deadline_s:.0f} + 1"
    return tally


def _poisoned(
    gateway: Gateway, llm: ToxicServer, calls: int, what: str, seed: int, rng: random.Random, tally: Tally
) -> list[Call]:
    asked, began = len(llm.asked), time.monotonic()
    done = asyncio.run(_calls(gateway.url, calls, rng))
    took_s = time.monotonic() - began
    again = len(llm.asked) - asked - calls
    allowed = 0.2 * calls + 3 * (1 + took_s / 10)
    tally.check(again <= allowed, seed, f"{what}: {again} retries of {calls} calls in {took_s:.0f} s")
    tally.counts["toxic calls"] += len(done)
    tally.counts["retries"] += max(0, again)
    return done


async def _calls(url: str, count: int, rng: random.Random) -> list[Call]:
    gate = asyncio.Semaphore(AT_ONCE)
    questions = [Question.draw(rng, 0.5, degraded_share=0.25) for _ in range(count)]

    async def one(question: Question) -> Call:
        async with gate:
            began = time.monotonic()
            try:
                return Call(await ask(url, question, timeout_s=_HUNG_S), time.monotonic() - began)
            except TimeoutError:
                return Call(None, _HUNG_S, hung=True)

    return list(await asyncio.gather(*(one(question) for question in questions)))


def _until_good(url: str, seed: int, rng: random.Random, tally: Tally) -> list[Call]:
    """Ordinary calls once the server is well, after the breaker's rest; all of them must succeed in the end."""
    done: list[Call] = []
    for _ in range(60):
        last = asyncio.run(_calls(url, 4, rng))
        done += last
        if all(call.reply is not None and call.reply.answered and _outcome(call.reply) == "answered" for call in last):
            return done
        time.sleep(0.5)
    tally.check(False, seed, "the gateway did not recover")
    return done


def _outcome(reply: Reply) -> str:
    """answered, degraded, or the problem's code."""
    if reply.code:
        return reply.code
    last = reply.events()[-1][1] if reply.streamed else reply.json()
    return "answered" if (last.get("mulle") or last)["degraded_reason"] in (None, "fallback") else "degraded"


def _check(call: Call, found: Journalled, what: str, seed: int, tally: Tally, limit_s: float) -> None:
    tally.counts["hung"] += call.hung
    tally.check(not call.hung, seed, f"{what}: a call hung for {_HUNG_S:.0f} s")
    tally.check(call.seconds <= limit_s, seed, f"{what}: a call took {call.seconds:.2f} s")
    reply = call.reply
    if reply is None or not reply.ended:
        tally.check(call.hung, seed, f"{what}: a call got no whole answer")
        return
    outcome = _outcome(reply)
    tally.counts[outcome] += 1
    rid = reply.request_id
    row = found.responses.get(rid)
    if reply.status != 200:
        problem = reply.headers.get("content-type") == "application/problem+json"
        tally.check(problem, seed, f"{what}: {reply.status} is no problem+json")
    known = outcome in ("answered", "degraded") or outcome.startswith("llm_")
    tally.check(known, seed, f"{what}: {reply.status} {outcome} {reply.body[-200:]!r}")
    tally.counts["unlogged"] += row is None
    tally.check(row is not None and rid in found.requests, seed, f"{what}: {rid} is not in the journal")
    if row is None:
        return
    tally.check(row["outcome"] in _OUTCOMES, seed, f"{what}: {rid} is on record as {row['outcome']}")
    tally.check((outcome == "answered") == (row["outcome"] == "answered"), seed, f"{what}: {outcome}, {row['outcome']}")
    if reply.streamed:
        logged = row["llm_response_content"] or ""
        tally.check(logged.startswith(reply.text), seed, f"{what}: client saw {reply.text!r}, journal {logged!r}")
