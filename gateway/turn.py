"""One request while it is under way, and the records that are made of it. No I/O."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gateway.asks import DegradedReason, Origin, SearchAsk
from gateway.errors import NoBackendError
from gateway.settings import GatewaySettings
from gateway.turns import TurnRecord
from lake.errors import BackendError, BackendTimeout
from lake.prompt import PROMPT_VERSION, Prompt
from lake.schemas.records import Outcome, RequestHalf, ResponseHalf
from lake.text import detect_lang
from serving.answers import ChatAnswer
from serving.backends import Backend
from serving.retriever import Retrieval, Retriever


@dataclass(slots=True)
class Turn:
    """`pieces`: what came of a streamed answer; `gone`: the client left before its answer was whole."""

    ask: SearchAsk
    origin: Origin
    question: str
    retriever: Retriever
    streamed: bool
    max_tokens: int
    temperature: float
    started: float = field(default_factory=time.perf_counter)
    began_unix_ns: int = field(default_factory=time.time_ns)
    latency_ms: dict[str, float] = field(default_factory=dict[str, float])
    items: int = 0
    pieces: list[str] = field(default_factory=list[str])
    answer: ChatAnswer | None = None
    error: Exception | None = None
    degraded: DegradedReason | None = None
    backend: Backend | None = None
    fallback: bool = False
    retries: int = 0
    first_token_s: float | None = None
    gone: bool = False

    @property
    def outcome(self) -> Outcome:
        if self.gone:
            return "client_gone"
        if self.error is None:
            return "answered"
        if isinstance(self.error, NoBackendError):
            return "no_llm"
        if isinstance(self.error, BackendTimeout):
            return "llm_timeout"
        return "llm_error" if isinstance(self.error, BackendError) else "aborted"

    @property
    def text(self) -> str | None:
        """The answer, or as much of it as came."""
        return self.answer.text if self.answer is not None else "".join(self.pieces) or None

    def rounded(self) -> dict[str, float]:
        """Stage times in milliseconds, as they are journalled and shown."""
        return {stage: round(value, 3) for stage, value in self.latency_ms.items()}

    def request_half(
        self, settings: GatewaySettings, template_sha256: str, found: Retrieval | None, prompt: Prompt | None
    ) -> RequestHalf:
        """What is known before the LLM is asked; `found` None where retrieval failed."""
        ask, origin, index = self.ask, self.origin, self.retriever.index
        return RequestHalf(
            request_id=origin.request_id,
            timestamp=datetime.fromtimestamp(self.began_unix_ns / 1e9, UTC).isoformat(),
            user_query=self.question,
            lang=found.lang if found else ask.lang or detect_lang(self.question),
            top_k=ask.top_k or settings.top_k,
            retrieved_items=found.items if found else [],
            prompt_version=PROMPT_VERSION,
            prompt_sha256=prompt.sha256 if prompt else "",
            template_sha256=template_sha256,
            index_version=index.version,
            embedder=self.retriever.encoder.name,
            session_id=ask.session_id,
            key_id=origin.key_id,
            store=ask.store,
            operation=ask.operation,
            streamed=self.streamed,
            trace_id=origin.trace.trace_id if origin.trace else None,
            client_request_id=origin.client_request_id,
            categories=list(ask.categories),
            filter_tags=list(ask.tags),
        )

    def response_half(self, request_seq: int) -> ResponseHalf:
        """What became of it."""
        answer, backend, error = self.answer, self.backend, self.error
        return ResponseHalf(
            request_id=self.origin.request_id,
            request_seq=request_seq,
            outcome=self.outcome,
            llm_response_content=self.text,
            backend=backend.profile if backend else "",
            model=backend.model if backend else "",
            adapter=(backend.adapter or None) if backend else None,
            finish_reason=answer.finish_reason if answer else None,
            prompt_tokens=answer.prompt_tokens if answer else None,
            completion_tokens=answer.completion_tokens if answer else None,
            latency_ms=self.rounded(),
            error=f"{getattr(error, 'code', type(error).__name__)}: {error}"[:500] if error else None,
            fallback=self.fallback,
            degraded=self.degraded is not None,
            first_token_ms=round(self.first_token_s * 1000, 3) if self.first_token_s is not None else None,
        )

    def record(self, journal_s: float) -> TurnRecord:
        """The value that metrics, traces and logs are made from."""
        return TurnRecord(
            request_id=self.origin.request_id,
            operation=self.ask.operation,
            streamed=self.streamed,
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            trace=self.origin.trace,
            began_unix_ns=self.began_unix_ns,
            latency_ms=self.latency_ms,
            journal_s=journal_s,
            first_token_s=self.first_token_s,
            outcome=self.outcome,
            backend=self.backend,
            fallback=self.fallback,
            answer=self.answer,
            error=self.error,
            retries=self.retries,
            items=self.items,
            index_version=self.retriever.index.version,
            stored=self.ask.store,
        )
