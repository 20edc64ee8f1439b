"""One search request from question to durable record. Knows no FastAPI.

Retrieves, builds the prompt, asks the LLM while the request half is written to the journal, and returns only after the
response half is durable. A stream opens once its request half is durable, and its last event comes after the response
half is. Invariants: every request that passed `admit` and its checks leaves a record with its outcome, whatever the LLM
or the client does, and one `TurnRecord`; no result is returned whose record is not as durable as the journal's mode
says. The work runs in a task of its own, so that a caller that goes away does not stop it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import structlog

from gateway.asks import Origin, SearchAsk, SearchResult, check_ask
from gateway.backend_holder import BackendHolder
from gateway.errors import DeadlineError, NoBackendError, OverloadedError
from gateway.llm_call import LLMCall
from gateway.recorder import Begun, Recorder
from gateway.retriever_holder import RetrieverHolder
from gateway.settings import GatewaySettings
from gateway.stream import SearchStream
from gateway.threads import Threads
from gateway.turn import Turn
from gateway.turns import TurnObserver
from lake.errors import BackendError, MulleError, SetupError
from lake.privacy.mask import mask
from lake.prompt import Prompt, PromptBuilder
from serving.answers import ChatAnswer
from serving.encoders import Vectors
from serving.retriever import Retrieval, Retriever

ClientGone = Callable[[], bool]
log = structlog.get_logger("gateway.search")


def _still_there() -> bool:
    return False


class QuestionEmbedder(Protocol):
    """Embeds questions for `retriever`'s index; several at once where several wait."""

    async def embed(self, retriever: Retriever, question: str) -> Vectors: ...


class SearchService:
    """The whole of a search; one for a process, for one event loop."""

    def __init__(
        self,
        settings: GatewaySettings,
        retrievers: RetrieverHolder,
        embedder: QuestionEmbedder,
        prompts: PromptBuilder,
        recorder: Recorder,
        backends: BackendHolder,
        observers: Sequence[TurnObserver],
        template_sha256: str,
        mask_off: frozenset[str] = frozenset(),
    ) -> None:
        """`mask_off`: types of personal data that stay in prompts, where the setting masks prompts at all."""
        self._settings = settings
        self._mask_off = mask_off
        self._retrievers = retrievers
        self._embedder = embedder
        self._prompts = prompts
        self._recorder = recorder
        self._backends = backends
        self._observers = tuple(observers)
        self._template_sha256 = template_sha256
        self._threads = Threads(settings.retrieval_threads, "retrieval")
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    async def search(self, ask: SearchAsk, origin: Origin, client_gone: ClientGone = _still_there) -> SearchResult:
        """Answer one question. Raises `MulleError`; ends within `request_deadline_s`, plus a second at most."""
        turn = self._admit(ask, origin, streamed=False)
        task = self._start(self._run(turn, client_gone), origin.request_id)
        done, _ = await asyncio.wait({task}, timeout=self._settings.request_deadline_s + 0.5)
        if not done:
            raise self._too_late()
        return task.result()

    async def stream(self, ask: SearchAsk, origin: Origin) -> SearchStream:
        """Open a stream: the question is checked, tools are found, and the request half is durable on return.

        Raises `MulleError` like `search`, as long as nothing was sent. The caller reads `events()` and calls
        `abandon()` when its client goes; the record is then written with what came until then.
        """
        turn = self._admit(ask, origin, streamed=True)
        limit_s = self._settings.request_deadline_s + 0.5
        stream = SearchStream(origin.request_id, limit_s, self._too_late)
        self._start(self._run_stream(turn, stream), origin.request_id)
        await stream.opened()
        return stream

    def _admit(self, ask: SearchAsk, origin: Origin, *, streamed: bool) -> Turn:
        """A turn, or the refusal of a request that leaves no record: it was not accepted."""
        if len(self._tasks) >= self._settings.max_in_flight:
            raise OverloadedError(
                f"{self._settings.max_in_flight} requests are being worked on: wait a second and try again.",
                retry_after_s=1,
            )
        question = check_ask(ask, self._settings)
        retriever = self._retrievers.current
        if retriever is None:
            raise SetupError(f"The search index is not ready: {self._retrievers.reason}")
        return Turn(
            ask,
            origin,
            question,
            retriever,
            streamed,
            max_tokens=ask.max_tokens or self._settings.max_tokens,
            temperature=self._settings.temperature if ask.temperature is None else ask.temperature,
        )

    def _start(self, work: Any, name: str) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _too_late(self) -> DeadlineError:
        limit_s = self._settings.request_deadline_s
        return DeadlineError(f"The request did not end within {limit_s:.0f} s: try again later.")

    async def drain(self, timeout_s: float) -> int:
        """Wait for the requests under way; how many were still open after `timeout_s`."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
        return len(self._tasks)

    def close(self) -> None:
        """Let the retrieval threads go."""
        self._threads.close()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # read it: the caller may have gone

    async def _prepare(self, turn: Turn) -> tuple[Retrieval, Prompt]:
        """Find the tools and build the prompt; a failure is recorded as the request's outcome and raised."""
        try:
            start = time.perf_counter()
            vector = await self._embedder.embed(turn.retriever, turn.question)
            turn.latency_ms["embed"] = (time.perf_counter() - start) * 1000
            return await self._threads.run(partial(self._retrieve, turn, vector))
        except Exception as error:
            log.exception("retrieval_failed", request_id=turn.origin.request_id)
            turn.error = error
            begun = self._recorder.begin(turn.request_half(self._settings, self._template_sha256, None, None))
            await self._finish(turn, begun, gone=False)
            raise

    def _retrieve(self, turn: Turn, vector: Vectors) -> tuple[Retrieval, Prompt]:
        """Runs in a thread."""
        ask = turn.ask
        found = turn.retriever.search(
            turn.question,
            ask.top_k or self._settings.top_k,
            ask.lang,
            categories=frozenset(ask.categories),
            tags=frozenset(ask.tags),
            vector=vector,
        )
        turn.items = len(found.items)
        start = time.perf_counter()
        question = mask(turn.question, self._mask_off).text if self._settings.mask_prompts else turn.question
        prompt = self._prompts.build(question, found.items)
        turn.latency_ms.update(found.latency_ms, prompt=(time.perf_counter() - start) * 1000)
        return found, prompt

    async def _run(self, turn: Turn, client_gone: ClientGone) -> SearchResult:
        found, prompt = await self._prepare(turn)
        half = turn.request_half(self._settings, self._template_sha256, found, prompt)
        healthy = self._recorder.healthy
        begun = self._recorder.begin(half, hold=healthy)
        if not healthy:
            await self._recorder.settled(begun)  # no LLM call for an answer that could not be logged
        async with self._backends.lease() as call:
            await self._ask_llm(turn, call, prompt)
        await self._finish(turn, begun, gone=client_gone())
        return self._result(turn, found)

    async def _run_stream(self, turn: Turn, stream: SearchStream) -> None:
        try:
            found, prompt = await self._prepare(turn)
            half = turn.request_half(self._settings, self._template_sha256, found, prompt)
            begun = self._recorder.begin(half)
            await self._recorder.settled(begun)
            stream.open(found)
            async with self._backends.lease() as call:
                await self._ask_llm(turn, call, prompt, stream)
            await self._finish(turn, begun, gone=stream.abandoned)
            stream.end(self._result(turn, found))
        except Exception as error:  # whatever it is, whoever reads the stream gets it as its last event
            stream.fail(error)

    def _result(self, turn: Turn, found: Retrieval) -> SearchResult:
        """What the caller gets, or the error that it gets instead."""
        error, answer = turn.error, turn.answer if turn.error is None else None
        if error is not None and turn.degraded is None:
            raise error
        return SearchResult(
            request_id=turn.origin.request_id,
            answer=answer.text if answer else None,
            items=found.items,
            lang=found.lang,
            backend=turn.backend,
            degraded=turn.degraded,
            latency_ms=turn.rounded(),
            prompt_tokens=answer.prompt_tokens if answer else None,
            completion_tokens=answer.completion_tokens if answer else None,
            finish_reason=answer.finish_reason if answer else None,
        )

    async def _ask_llm(
        self, turn: Turn, call: LLMCall | None, prompt: Prompt, stream: SearchStream | None = None
    ) -> None:
        """Fill the turn with an answer or with what went wrong: the record has to be written either way."""
        if call is None:
            turn.error = NoBackendError(f"No LLM answers: {self._backends.reason}")
            turn.degraded = "no_llm" if turn.ask.allow_degraded else None
            return
        start = time.perf_counter()
        left_s = self._settings.request_deadline_s - (start - turn.started)
        limit_s = max(0.001, min(self._settings.llm_timeout_s, left_s))
        headers = {"traceparent": turn.origin.trace.traceparent} if turn.origin.trace else None
        try:
            if stream is None:
                turn.answer = await call.chat(
                    prompt.messages, turn.max_tokens, turn.temperature, deadline_s=limit_s, headers=headers
                )
            else:
                pieces = call.stream(
                    prompt.messages, turn.max_tokens, turn.temperature, deadline_s=limit_s, headers=headers
                )
                await _forward(turn, pieces, stream, start)
        except Exception as error:
            if not isinstance(error, BackendError):
                log.exception("llm_call_failed", request_id=turn.origin.request_id)
            turn.error = error
            # A stream that had begun can't be taken back: what came is no answer that may pass for a whole one.
            if turn.ask.allow_degraded and isinstance(error, MulleError) and not turn.pieces:
                turn.degraded = "llm_error"
        else:
            turn.degraded = "fallback" if call.is_fallback else None
        finally:
            turn.latency_ms["llm"] = (time.perf_counter() - start) * 1000
            turn.backend, turn.fallback, turn.retries = call.backend, call.is_fallback, call.retries

    async def _finish(self, turn: Turn, begun: Begun, *, gone: bool) -> None:
        """Write the response half, then tell the observers. Raises `JournalError`."""
        turn.gone = gone
        turn.latency_ms["total"] = (time.perf_counter() - turn.started) * 1000
        start = time.perf_counter()
        try:
            await self._recorder.end(turn.response_half(begun.seq), begun)
        finally:
            record = turn.record(journal_s=time.perf_counter() - start)
            for observer in self._observers:
                observer.turn_ended(record)


async def _forward(turn: Turn, pieces: Any, stream: SearchStream, start: float) -> None:
    """Hand pieces on as they come; the whole answer, or as much as came before the client went, is the turn's."""
    try:
        async for piece in pieces:
            if isinstance(piece, ChatAnswer):
                turn.answer = piece
            else:
                if turn.first_token_s is None:
                    turn.first_token_s = time.perf_counter() - start
                turn.pieces.append(piece)
                stream.piece(piece)
            if stream.abandoned:  # nobody reads: the LLM need not go on
                break
    finally:
        await pieces.aclose()
