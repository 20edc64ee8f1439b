"""One request's use of the LLM: the backend in service, then the fallback, within one deadline.

Made by `BackendHolder.lease`, for one request. Each server stands behind its circuit breaker. A server that says
nothing gives way after `primary_share` of the time, so that the fallback has some left; a stream may change servers
only before its first piece. A request that is wrong in itself (400, 413, 422) is not asked again. Invariant: all
attempts together end by the deadline. Knows no FastAPI.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

import structlog

from lake.errors import BackendError, BackendRefused
from serving.answers import ChatAnswer
from serving.backends import Backend
from serving.breaker import CircuitBreaker
from serving.client import LLMClient, Messages
from serving.upstream import Deadline

log = structlog.get_logger("gateway.backend")


@dataclass(eq=False, slots=True)
class Target:
    """One backend that may be asked, with the number of requests that hold it."""

    backend: Backend
    client: LLMClient
    breaker: CircuitBreaker
    is_fallback: bool = False
    users: int = 0
    retired: bool = False


def _nothing() -> None: ...


class LLMCall:
    """`backend` is who answered, or was asked last; `retries` counts the repeated calls of this request."""

    def __init__(
        self, targets: Sequence[Target], primary_share: float = 1.0, on_unknown_model: Callable[[], None] = _nothing
    ) -> None:
        """`targets`: one or two, in the order in which they are asked."""
        self._targets = targets
        self._share = primary_share
        self._on_unknown_model = on_unknown_model
        self.backend = targets[0].backend
        self.is_fallback = targets[0].is_fallback
        self.retries = 0

    async def chat(
        self,
        messages: Messages,
        max_tokens: int,
        temperature: float = 0.0,
        deadline_s: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> ChatAnswer:
        """One completion within `deadline_s`. Raises the `BackendError` family and nothing else."""
        deadline = Deadline(deadline_s)
        failed: BackendError | None = None
        for number, target in enumerate(self._targets):
            try:
                with self._asking(target):
                    answer = await target.client.chat(
                        messages, max_tokens, temperature, self._limit_s(number, deadline), headers=headers,
                        on_retry=self._note_retry, new_request=number == 0,
                    )  # fmt: skip
                    target.breaker.succeeded()
                    return answer
            except BackendError as error:
                failed = self._next_or_raise(number, error, failed)
        raise AssertionError("unreachable")

    async def stream(
        self,
        messages: Messages,
        max_tokens: int,
        temperature: float = 0.0,
        deadline_s: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[str | ChatAnswer, None]:
        """Pieces of text as they come, then exactly one `ChatAnswer`; as `LLMClient.stream`. Close it when you stop."""
        deadline = Deadline(deadline_s)
        failed: BackendError | None = None
        began = False
        for number, target in enumerate(self._targets):
            try:
                with self._asking(target):
                    pieces = target.client.stream(
                        messages, max_tokens, temperature, deadline.left_s(), headers=headers,
                        on_retry=self._note_retry, new_request=number == 0,
                        first_piece_s=self._limit_s(number, deadline),
                    )  # fmt: skip
                    async with aclosing(pieces):
                        async for piece in pieces:
                            if isinstance(piece, ChatAnswer):
                                target.breaker.succeeded()
                            elif not began:
                                began = True
                                target.breaker.answering()
                            yield piece
                    return
            except BackendError as error:
                if began:
                    raise
                failed = self._next_or_raise(number, error, failed)

    @contextmanager
    def _asking(self, target: Target) -> Iterator[None]:
        """From now on `target` is who is asked; its breaker learns how that ends."""
        self.backend, self.is_fallback = target.backend, target.is_fallback
        target.breaker.let_in(target.backend.api_base)
        try:
            yield
        except BackendError as error:
            target.breaker.judge(error)
            if error.detail.get("unknown_model"):
                self._on_unknown_model()
            raise
        except BaseException:
            target.breaker.abandoned()
            raise

    def _limit_s(self, number: int, deadline: Deadline) -> float:
        """How long target `number` may be silent, seconds."""
        later = self._targets[number + 1 :]
        left_s = deadline.left_s()
        return left_s * self._share if any(target.breaker.lets_in for target in later) else left_s

    def _next_or_raise(self, number: int, error: BackendError, before: BackendError | None) -> BackendError:
        """Returns `error` where the next target should be asked; else raises it."""
        if before is not None:
            error.detail["primary"] = f"{before.code}: {before}"
        of_the_server = error.detail.get("unknown_model") or error.detail.get("status") in (401, 403)
        of_the_request = isinstance(error, BackendRefused) and not of_the_server
        if number + 1 == len(self._targets) or of_the_request:
            raise error
        log.warning("llm_fallback", failed=self.backend.api_base, code=error.code, reason=str(error))
        return error

    def _note_retry(self) -> None:
        self.retries += 1
