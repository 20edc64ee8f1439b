"""What is known of one search once its record is written: the one value that metrics, traces and logs are made from.

Invariant: every request that was accepted gives exactly one `TurnRecord`, whatever became of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.trace_context import TraceContext
from lake.schemas.records import Operation, Outcome
from serving.answers import ChatAnswer
from serving.backends import Backend


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """`latency_ms` holds the stages and `total`, as they are journalled; `began_unix_ns` is UTC."""

    request_id: str
    operation: Operation
    streamed: bool
    max_tokens: int  # of the request, or the default
    temperature: float
    trace: TraceContext | None
    began_unix_ns: int
    latency_ms: Mapping[str, float]
    journal_s: float  # wait for the response half
    first_token_s: float | None  # from the call of the LLM to its first piece; None where it was not streamed
    outcome: Outcome
    backend: Backend | None  # who answered, or was asked last
    fallback: bool  # it was the fallback backend
    answer: ChatAnswer | None  # whole, or the part that came before a failure
    error: Exception | None
    retries: int
    items: int
    index_version: str
    stored: bool


class TurnObserver(Protocol):
    """Called once a turn, on the event loop; must not block and must not raise."""

    def turn_ended(self, turn: TurnRecord) -> None: ...
