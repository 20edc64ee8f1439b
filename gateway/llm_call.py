"""One request's use of the LLM: asks the backend in service, and knows afterwards who answered.

Made by `BackendHolder.lease`, for one request. Knows no FastAPI.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence

from serving.answers import ChatAnswer
from serving.backends import Backend
from serving.client import LLMClient, Messages


class LLMCall:
    """`backend` is who answered, or was asked last; `retries` counts the repeated calls of this request."""

    def __init__(self, backend: Backend, client: LLMClient) -> None:
        self.backend = backend
        self.is_fallback = False
        self.retries = 0
        self._client = client

    async def chat(
        self,
        messages: Messages,
        max_tokens: int,
        temperature: float = 0.0,
        deadline_s: float = 60.0,
        stop: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> ChatAnswer:
        """One completion within `deadline_s`. Raises the `BackendError` family and nothing else."""
        return await self._client.chat(
            messages, max_tokens, temperature, deadline_s, stop, headers, on_retry=self._note_retry
        )

    def stream(
        self,
        messages: Messages,
        max_tokens: int,
        temperature: float = 0.0,
        deadline_s: float = 60.0,
        stop: Sequence[str] = (),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[str | ChatAnswer, None]:
        """Pieces of text as they come, then exactly one `ChatAnswer`; as `LLMClient.stream`. Close it when you stop."""
        return self._client.stream(
            messages, max_tokens, temperature, deadline_s, stop, headers, on_retry=self._note_retry
        )

    def _note_retry(self) -> None:
        self.retries += 1
