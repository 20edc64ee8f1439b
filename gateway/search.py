"""One search request from question to durable record. Knows no FastAPI.

Retrieves, builds the prompt, asks the LLM while the request half is written to the journal, and returns only
after the response half is durable. Invariant: every request that passed `admit` and its checks leaves a
record with its outcome, whatever the LLM or the client does; no result is returned whose record is not as
durable as the journal's mode says. The work runs in a task of its own, so that a caller that goes away does
not stop it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from gateway.backend_holder import BackendHolder
from gateway.errors import DeadlineError, NoBackendError, OverloadedError
from gateway.llm_call import LLMCall
from gateway.metrics import GatewayMetrics
from gateway.retriever_holder import RetrieverHolder
from gateway.settings import GatewaySettings
from lake.errors import BackendError, BackendTimeout, InputError, JournalError, MulleError, QuestionError, SetupError
from lake.journal.writer import JournalWriter
from lake.prompt import PROMPT_VERSION, Prompt, PromptBuilder, check_question
from lake.schemas.records import FrameKind, Outcome, RequestHalf, ResponseHalf, RetrievedItem
from lake.text import detect_lang
from serving.answers import ChatAnswer
from serving.backends import Backend
from serving.retriever import Retrieval, Retriever

ClientGone = Callable[[], Awaitable[bool]]
log = structlog.get_logger("gateway.search")


async def _still_there() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class SearchAsk:
    """What a caller wants. `top_k` None: the default; `lang` None: by the question."""

    question: str
    top_k: int | None = None
    lang: str | None = None
    session_id: str | None = None
    allow_degraded: bool = False


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What was answered. `answer` is None only where `degraded` is true."""

    request_id: str
    answer: str | None
    items: list[RetrievedItem]
    lang: str
    backend: Backend | None
    degraded: bool
    latency_ms: dict[str, float]
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None


@dataclass(slots=True)
class _Turn:
    """What is known of one request while it is under way."""

    request_id: str
    ask: SearchAsk
    started: float
    timestamp: str
    latency_ms: dict[str, float]


class SearchService:
    """The whole of a search; one for a process, for one event loop."""

    def __init__(
        self,
        settings: GatewaySettings,
        retrievers: RetrieverHolder,
        prompts: PromptBuilder,
        journal: JournalWriter,
        backends: BackendHolder,
        metrics: GatewayMetrics,
        template_sha256: str,
    ) -> None:
        self._settings = settings
        self._retrievers = retrievers
        self._prompts = prompts
        self._journal = journal
        self._backends = backends
        self._metrics = metrics
        self._template_sha256 = template_sha256
        self._threads = ThreadPoolExecutor(settings.retrieval_threads, thread_name_prefix="retrieval")
        self._tasks: set[asyncio.Task[SearchResult]] = set()

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    async def search(self, ask: SearchAsk, request_id: str, client_gone: ClientGone = _still_there) -> SearchResult:
        """Answer one question. Raises `MulleError`; ends within `request_deadline_s`, plus a second at most."""
        if len(self._tasks) >= self._settings.max_in_flight:
            raise OverloadedError(
                f"{self._settings.max_in_flight} requests are being worked on: wait a second and try again.",
                retry_after_s=1,
            )
        question = self.check(ask)
        retriever = self._retrievers.current
        if retriever is None:
            raise SetupError(f"The search index is not ready: {self._retrievers.reason}")
        turn = _Turn(request_id, ask, time.perf_counter(), datetime.now(UTC).isoformat(), {})
        task = asyncio.create_task(self._run(turn, question, retriever, client_gone), name=request_id)
        self._tasks.add(task)
        self._metrics.in_flight.set(len(self._tasks))
        task.add_done_callback(self._ended)
        limit_s = self._settings.request_deadline_s
        done, _ = await asyncio.wait({task}, timeout=limit_s + 0.5)
        if not done:
            raise DeadlineError(f"The request did not end within {limit_s:.0f} s: try again later.")
        return task.result()

    def check(self, ask: SearchAsk) -> str:
        """The question as it is logged and asked. Raises `InputError`, whose message says what to change."""
        if ask.top_k is not None and not 1 <= ask.top_k <= self._settings.top_k_max:
            raise InputError(f"top_k is {ask.top_k}: choose 1 to {self._settings.top_k_max}.", field="top_k")
        if any(ord(char) < 32 and char not in "\t\n\r" for char in ask.question):
            raise QuestionError("The question holds control characters: send plain text.")
        return check_question(ask.question, self._settings.question_max_chars)

    async def drain(self, timeout_s: float) -> int:
        """Wait for the requests under way; how many were still open after `timeout_s`."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return len(self._tasks)

    def close(self) -> None:
        """Let the retrieval threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ended(self, task: asyncio.Task[SearchResult]) -> None:
        self._tasks.discard(task)
        self._metrics.in_flight.set(len(self._tasks))
        if not task.cancelled():
            task.exception()  # read it: the caller may have gone

    def _retrieve(self, turn: _Turn, question: str, retriever: Retriever) -> tuple[Retrieval, Prompt]:
        """Runs in a thread."""
        found = retriever.search(question, turn.ask.top_k or self._settings.top_k, turn.ask.lang)
        start = time.perf_counter()
        prompt = self._prompts.build(question, found.items)
        turn.latency_ms.update(found.latency_ms, prompt=(time.perf_counter() - start) * 1000)
        return found, prompt

    async def _run(self, turn: _Turn, question: str, retriever: Retriever, client_gone: ClientGone) -> SearchResult:
        loop = asyncio.get_running_loop()
        try:
            found, prompt = await loop.run_in_executor(self._threads, self._retrieve, turn, question, retriever)
        except Exception as error:
            await self._log_failed_retrieval(turn, question, retriever, error)
            raise
        half = self._request_half(turn, question, retriever, found, prompt)
        writing = asyncio.create_task(self._append(FrameKind.REQUEST, half.payload()))
        if not self._journal.healthy:
            await writing  # no LLM call for an answer that could not be logged
        async with self._backends.lease() as lease:
            answer, error = await self._ask_llm(turn, lease, prompt)
        request_seq = await writing
        backend = lease.backend if lease else None
        gone = await client_gone()
        await self._respond(turn, request_seq, backend, answer, error, gone)
        if error is not None and not (turn.ask.allow_degraded and isinstance(error, MulleError)):
            raise error
        return SearchResult(
            request_id=turn.request_id,
            answer=answer.text if answer else None,
            items=found.items,
            lang=found.lang,
            backend=backend,
            degraded=answer is None,
            latency_ms={stage: round(value, 3) for stage, value in turn.latency_ms.items()},
            prompt_tokens=answer.prompt_tokens if answer else None,
            completion_tokens=answer.completion_tokens if answer else None,
            finish_reason=answer.finish_reason if answer else None,
        )

    def _request_half(
        self, turn: _Turn, question: str, retriever: Retriever, found: Retrieval | None, prompt: Prompt | None
    ) -> RequestHalf:
        return RequestHalf(
            request_id=turn.request_id,
            timestamp=turn.timestamp,
            user_query=question,
            lang=found.lang if found else turn.ask.lang or detect_lang(question),
            top_k=turn.ask.top_k or self._settings.top_k,
            retrieved_items=found.items if found else [],
            prompt_version=PROMPT_VERSION,
            prompt_sha256=prompt.sha256 if prompt else "",
            template_sha256=self._template_sha256,
            index_version=retriever.index.version,
            embedder=retriever.encoder.name,
            session_id=turn.ask.session_id,
        )

    async def _log_failed_retrieval(self, turn: _Turn, question: str, retriever: Retriever, error: Exception) -> None:
        """A request that was accepted is in the journal even where our own code failed on it."""
        log.exception("retrieval_failed", request_id=turn.request_id)
        half = self._request_half(turn, question, retriever, None, None)
        request_seq = await self._append(FrameKind.REQUEST, half.payload())
        await self._respond(turn, request_seq, self._backends.backend, None, error, False)

    async def _ask_llm(
        self, turn: _Turn, lease: LLMCall | None, prompt: Prompt
    ) -> tuple[ChatAnswer | None, Exception | None]:
        """(answer, None) or (None, what went wrong): the record has to be written either way."""
        if lease is None:
            return None, NoBackendError(f"No LLM answers: {self._backends.reason}")
        start = time.perf_counter()
        left_s = self._settings.request_deadline_s - (start - turn.started)
        limit_s = max(0.001, min(self._settings.llm_timeout_s, left_s))
        try:
            answer = await lease.chat(
                prompt.messages, self._settings.max_tokens, self._settings.temperature, deadline_s=limit_s
            )
        except Exception as error:
            if not isinstance(error, BackendError):
                log.exception("llm_call_failed", request_id=turn.request_id)
            return None, error
        else:
            return answer, None
        finally:
            turn.latency_ms["llm"] = (time.perf_counter() - start) * 1000
            self._metrics.llm_retries.inc(lease.retries)

    async def _respond(
        self, turn: _Turn, request_seq: int, backend: Backend | None, answer: ChatAnswer | None,
        error: Exception | None, gone: bool,
    ) -> None:  # fmt: skip
        outcome = _outcome(answer, error, gone)
        turn.latency_ms["total"] = (time.perf_counter() - turn.started) * 1000
        half = ResponseHalf(
            request_id=turn.request_id,
            request_seq=request_seq,
            outcome=outcome,
            llm_response_content=answer.text if answer else None,
            backend=backend.profile if backend else "",
            model=backend.model if backend else "",
            adapter=(backend.adapter or None) if backend else None,
            finish_reason=answer.finish_reason if answer else None,
            prompt_tokens=answer.prompt_tokens if answer else None,
            completion_tokens=answer.completion_tokens if answer else None,
            latency_ms={stage: round(value, 3) for stage, value in turn.latency_ms.items()},
            error=f"{getattr(error, 'code', type(error).__name__)}: {error}"[:500] if error else None,
        )
        start = time.perf_counter()
        await self._append(FrameKind.RESPONSE, half.payload())
        self._metrics.observe_stages({**turn.latency_ms, "journal": (time.perf_counter() - start) * 1000})
        self._metrics.requests.labels(outcome).inc()
        for kind, count in (("prompt", half.prompt_tokens), ("completion", half.completion_tokens)):
            self._metrics.tokens.labels(kind).inc(count or 0)
        log.info(
            "search", request_id=turn.request_id, outcome=outcome, backend=half.backend, model=half.model,
            total_ms=round(turn.latency_ms["total"], 1), llm_ms=round(turn.latency_ms.get("llm", 0.0), 1),
        )  # fmt: skip

    async def _append(self, kind: FrameKind, payload: dict[str, Any]) -> int:
        """Sequence number of the durable record. A write that is not over in time still goes on by itself."""
        limit_s = self._settings.journal_timeout_s
        try:
            position = await asyncio.wait_for(self._journal.append(kind, payload), limit_s)
        except TimeoutError as error:
            raise JournalError(
                f"The journal did not take the record within {limit_s:.0f} s (log_unavailable): check the disk."
            ) from error
        return position.seq


def _outcome(answer: ChatAnswer | None, error: Exception | None, gone: bool) -> Outcome:
    if gone:
        return "client_gone"
    if answer is not None:
        return "answered"
    if isinstance(error, NoBackendError):
        return "no_llm"
    if isinstance(error, BackendTimeout):
        return "llm_timeout"
    return "llm_error" if isinstance(error, BackendError) else "aborted"
