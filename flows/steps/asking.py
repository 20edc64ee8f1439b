"""Asks an OpenAI-compatible server many things, within a budget, each of them once: for teacher and synthesis alike.

Reads and writes the answer cache. Invariants: an answer that came is on disk before it is used; no call is made that
the budget can't pay; a failure is a value with its code, counted by the caller, and only what makes every further call
pointless (a refused key, an unknown model, a server that fails `GIVE_UP_AFTER` times running) is raised.
Calls that fail for a while (429, 5xx, time-outs, broken answers) are tried again with growing pauses, as often as the
retry budget of `serving/retry.py` allows; a batch waits for it instead of giving up.
Servers that lack a parameter (`response_format`, `seed`, `temperature`, `max_tokens`) are asked without it then.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flows.steps.budget import Budget, most_tokens
from lake.answer_cache import AnswerCache, PaidAnswer, Spent
from lake.errors import BackendBadAnswer, BackendError, BackendRefused
from lake.files import canonical_json, sha256_bytes
from serving.answers import ChatAnswer
from serving.retry import RetryBudget

ATTEMPTS = 5
GIVE_UP_AFTER = 20  # asks that failed one after the other, retries included
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_BUDGET_POLL_S = 0.25
# What a server may not know, in the order in which it is left out where its refusal names none of them.
_OPTIONAL = ("response_format", "seed", "temperature", "max_tokens")
_SAYS = {"response_format": ("response_format", "json_schema", "grammar", "guided", "structured")}
_FREE = ("llm_overloaded", "llm_refused")  # failed before a token was made


class ChatClient(Protocol):
    """The part of `LLMClient` that is used."""

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        max_tokens: int,
        temperature: float = 0.0,
        deadline_s: float = 60.0,
        stop: Sequence[str] = (),
        *,
        extra: Mapping[str, Any] | None = None,
    ) -> ChatAnswer: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LlmAsk:
    """One request: what decides its answer, and for what it is asked."""

    subject: str  # request or tool id
    messages: list[dict[str, str]]
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None  # JSON schema of the answer

    def key(self, model: str) -> str:
        """Content hash of prompt, model and parameters."""
        content = [model, self.messages, self.max_tokens, self.temperature, self.seed, self.stop, self.schema]
        return sha256_bytes(canonical_json(content))


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of an ask: an answer, or the code of what went wrong (`budget`: it was not asked)."""

    ask: LlmAsk
    answer: PaidAnswer | None
    failure: str = ""
    message: str = ""
    cached: bool = False


@dataclass
class Asker:
    """Asks `model` through `client`. For one event loop; one run at a time."""

    client: ChatClient
    model: str
    cache: AnswerCache
    budget: Budget
    run_id: str
    concurrency: int = 2
    deadline_s: float = 120.0
    attempts: int = ATTEMPTS
    pause_s: float = _PAUSE_S
    counts: Counter[str] = field(default_factory=Counter[str])  # asked, cached, retries, failures by code
    left_out: set[str] = field(default_factory=set[str])  # parameters that the server does not take
    _retries: RetryBudget = field(default_factory=RetryBudget)
    _failed_running: int = 0

    async def ask_all(self, asks: Iterable[LlmAsk]) -> AsyncIterator[Reply]:
        """Replies as they come, in no order; asks are taken from the iterable one by one as workers are free.

        Raises the `BackendError` that makes going on pointless; what came until then is kept and a run with the same
        id goes on from there.
        """
        replies: asyncio.Queue[Reply | None] = asyncio.Queue()
        source = iter(asks)

        async def worker() -> None:
            for ask in source:
                replies.put_nowait(await self.ask(ask))

        async def crew() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.concurrency):
                        group.create_task(worker())
            finally:
                replies.put_nowait(None)

        working = asyncio.create_task(crew())
        try:
            while (reply := await replies.get()) is not None:
                yield reply
            await working
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def ask(self, ask: LlmAsk) -> Reply:
        """One ask: from the cache, or paid for. Raises what makes every further ask pointless."""
        key = ask.key(self.model)
        known = self.cache.get(key, ask.subject)
        if known is not None:
            self.counts["cached"] += 1
            return Reply(ask, known, cached=True)
        prompt_tokens = most_tokens(ask.messages)
        for attempt in range(1, self.attempts + 1):
            if not await self.budget.reserve(prompt_tokens, ask.max_tokens):
                return Reply(ask, None, "budget", "The budget is spent.")
            try:
                answer = await self._once(ask, key, prompt_tokens)
            except BackendError as error:
                if _pointless(error):
                    raise
                if isinstance(error, BackendRefused) or attempt == self.attempts:
                    return self._failed(ask, error)
                self.counts["retries"] += 1
                await self._pause(attempt, error)
            else:
                self._failed_running = 0
                self.counts["asked"] += 1
                return Reply(ask, answer)
        raise AssertionError("unreachable")

    async def _once(self, ask: LlmAsk, key: str, prompt_tokens: int) -> PaidAnswer:
        """One call that is reserved already, settled whatever comes."""
        paid, started = Spent(), time.perf_counter()
        self._retries.note_call()
        try:
            answer = await self._call(ask)
            counted = answer.prompt_tokens is not None and answer.completion_tokens is not None
            used = (
                answer.prompt_tokens if answer.prompt_tokens is not None else prompt_tokens,
                answer.completion_tokens if answer.completion_tokens is not None else ask.max_tokens,
            )
            cost = self.budget.prices.cost(*used)
            milliseconds = (time.perf_counter() - started) * 1000
            kept = PaidAnswer(answer.text, answer.finish_reason, *used, not counted, cost, milliseconds)
            paid = Spent(tokens=sum(used), cost=cost)
            self.cache.put(key, ask.subject, self.run_id, self.model, kept)
            return kept
        except BackendError as error:
            if error.code not in _FREE and "status" not in error.detail and not _unreached(error):
                # it may have worked on the answer, and charge for it
                cost = self.budget.prices.cost(prompt_tokens, ask.max_tokens)
                paid = Spent(failed_tokens=prompt_tokens + ask.max_tokens, failed_cost=cost)
                self.cache.note_failure(self.run_id, error.code, paid.failed_tokens, cost)
            raise
        finally:
            self.budget.settle(prompt_tokens, ask.max_tokens, paid)

    async def _call(self, ask: LlmAsk) -> ChatAnswer:
        """One completion, without the parameters that this server does not take."""
        guessed = False
        while True:
            sent = set(self.left_out)
            try:
                return await self.client.chat(
                    ask.messages, ask.max_tokens, ask.temperature, self.deadline_s, ask.stop, extra=self._extra(ask)
                )
            except BackendRefused as error:
                name = None if _pointless(error) else self._named_parameter(error, sent)
                if name is None and not guessed and ask.schema and "response_format" not in sent:
                    # It says nothing of a parameter. Where it has taken the format before, it is this request.
                    if self.counts["asked"] or not _is_invalid(error):
                        raise
                    name, guessed = "response_format", True
                if name is None:
                    if guessed:
                        self.left_out.discard("response_format")
                    raise
                self.left_out.add(name)

    def _extra(self, ask: LlmAsk) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if ask.schema is not None and "response_format" not in self.left_out:
            schema = {"name": "answer", "strict": True, "schema": ask.schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        if ask.seed is not None and "seed" not in self.left_out:
            fields["seed"] = ask.seed
        if "temperature" in self.left_out:
            fields["temperature"] = None
        if "max_tokens" in self.left_out:  # what OpenAI calls it for models that think
            fields |= {"max_tokens": None, "max_completion_tokens": ask.max_tokens}
        return fields

    def _named_parameter(self, error: BackendRefused, sent_without: set[str]) -> str | None:
        """Which parameter the refusal is about; None where it names none that was sent."""
        text = str(error).lower()
        named = (name for name in _OPTIONAL if any(word in text for word in _SAYS.get(name, (name,))))
        return next((name for name in named if name not in sent_without), None) if _is_invalid(error) else None

    def _failed(self, ask: LlmAsk, error: BackendError) -> Reply:
        self.counts[error.code] += 1
        if not isinstance(error, BackendRefused):  # a refusal is an answer of a server that is well
            self._failed_running += 1
            if self._failed_running >= GIVE_UP_AFTER:
                raise error
        return Reply(ask, None, error.code, str(error))

    async def _pause(self, attempt: int, error: BackendError) -> None:
        """Until the server may be asked again: its Retry-After, else twice as long each time; then the bucket."""
        said = error.detail.get("wait_s")
        growing = self.pause_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
        await asyncio.sleep(min(_LONGEST_PAUSE_S, float(said) if isinstance(said, int | float) else growing))
        while not self._retries.take():
            await asyncio.sleep(min(_BUDGET_POLL_S, self.pause_s))


def _pointless(error: BackendError) -> bool:
    """A key or a model name that is wrong for every ask."""
    refused = isinstance(error, BackendRefused)
    return refused and (error.detail.get("status") in (401, 403) or bool(error.detail.get("unknown_model")))


def _is_invalid(error: BackendError) -> bool:
    """The server says that it does not take the request as it is."""
    return error.detail.get("status") in (400, 422)


def _unreached(error: BackendError) -> bool:
    """No server was there to work."""
    return "base" in error.detail and not isinstance(error, BackendBadAnswer)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first plain exception of a group of groups."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
