"""Asks one LLM server over the OpenAI protocol, and comes back by the deadline with an answer or a typed
error.

One client belongs to one immutable backend. Each call runs in a task of its own that nobody cancels:
cancelling a request inside httpx can leave its connection pool unusable, so a caller that has waited long
enough lets go, and the task ends by its own time limits. After repeated pool timeouts the HTTP client is
replaced. Invariants: no call outlasts its deadline; bodies are bounded; nothing is decompressed; no redirect
is followed; proxies and netrc of the environment are ignored; a completion has no side effect, so it is safe
to retry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import httpx
import orjson

from lake.errors import BackendBadAnswer, BackendError, BackendOverloaded, BackendRefused, BackendTimeout
from serving.answers import ChatAnswer, ModelCard, error_text, parse_chat, parse_models
from serving.backends import PROFILES, Backend
from serving.retry import RetryBudget, backoff_s

MAX_RESPONSE_BYTES = 2 << 20
MAX_ATTEMPTS = 3
_FAULTS_BEFORE_REBUILD = 3  # pool timeouts in a row, or calls that had to be cancelled
_GRACE_S = 5.0  # how long a call that was given up may still end by itself
_Result = TypeVar("_Result")


class _Retriable(Exception):
    """One attempt failed before an answer began; `error` is what the caller gets when no retry is left."""

    def __init__(self, error: BackendError, retry_after: str | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after


class LLMClient:
    """For one event loop. `transport` replaces the network in tests; `budget` is shared between clients."""

    def __init__(
        self,
        backend: Backend,
        *,
        budget: RetryBudget | None = None,
        connect_timeout_s: float = 3.0,
        max_connections: int = 128,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        transport: Callable[[], httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self.backend = backend
        self.retries = 0
        self.rebuilds = 0
        self._budget = budget or RetryBudget()
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._max_response_bytes = max_response_bytes
        self._transport = transport
        self._pool_faults = 0
        self._retired: list[httpx.AsyncClient] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._client = self._new_client()

    def _new_client(self) -> httpx.AsyncClient:
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "mulle"}
        if self.backend.api_key:
            headers["Authorization"] = f"Bearer {self.backend.api_key}"
        return httpx.AsyncClient(
            headers=headers,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(
                max_connections=self._max_connections,
                max_keepalive_connections=self._max_connections,
                keepalive_expiry=4.0,  # below the 5 s after which uvicorn-based servers close idle connections
            ),
            transport=self._transport() if self._transport else None,
        )

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        max_tokens: int,
        temperature: float = 0.0,
        deadline_s: float = 60.0,
        stop: Sequence[str] = (),
    ) -> ChatAnswer:
        """One completion within `deadline_s`. Raises the `BackendError` family and nothing else."""
        body: dict[str, Any] = {
            "model": self.backend.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stream": False,
        }
        if stop:
            body["stop"] = list(stop)
        return await self._bounded(self._chat(orjson.dumps(body), time.monotonic() + deadline_s), deadline_s)

    async def list_models(self, deadline_s: float = 10.0) -> list[ModelCard]:
        """What `/v1/models` lists: what is served, or (LM Studio, Ollama) what could be loaded."""
        return await self._bounded(self._models(time.monotonic() + deadline_s), deadline_s)

    async def probe(self, deadline_s: float | None = None) -> ChatAnswer:
        """A real one-token completion: the only proof that this model answers here. May load it first."""
        limit_s = deadline_s or PROFILES[self.backend.profile].probe_timeout_s
        return await self.chat([{"role": "user", "content": "안녕"}], max_tokens=1, deadline_s=limit_s)

    @property
    def unfinished(self) -> int:
        """Calls still under way, those that their callers gave up included."""
        return len(self._tasks)

    async def aclose(self) -> None:
        """End what is under way and close the connections. Safe to repeat."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in (self._client, *self._retired):
            await client.aclose()
        self._retired.clear()

    async def _bounded(self, work: Coroutine[Any, Any, _Result], deadline_s: float) -> _Result:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        done, _ = await asyncio.wait({task}, timeout=deadline_s)
        if not done:
            asyncio.get_running_loop().call_later(_GRACE_S, self._end_leftover, task)
            raise self._too_slow(deadline_s)
        try:
            return task.result()
        except asyncio.CancelledError as error:  # the client was closed while the call was under way
            raise BackendError("The connection to the LLM server was closed: send the question again.") from error

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # read it, so that a call that was given up leaves no warning

    def _end_leftover(self, task: asyncio.Task[Any]) -> None:
        """A server that trickles header bytes outlasts every read timeout: end the call, distrust the pool."""
        if not task.done():
            task.cancel()
            self._distrust(self._client)

    def _too_slow(self, limit_s: float) -> BackendTimeout:
        return BackendTimeout(
            f"The LLM server at {self.backend.api_base} did not answer within {limit_s:.1f} s: try again, lower "
            "MULLE_MAX_TOKENS, or raise MULLE_LLM_TIMEOUT_S.",
            limit_s=limit_s,
        )

    async def _chat(self, body: bytes, deadline: float) -> ChatAnswer:
        return parse_chat(await self._call("POST", "/chat/completions", body, deadline))

    async def _models(self, deadline: float) -> list[ModelCard]:
        return parse_models(await self._call("GET", "/models", None, deadline))

    async def _call(self, method: str, path: str, body: bytes | None, deadline: float) -> bytes:
        self._budget.note_call()
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return await self._attempt(method, path, body, deadline)
            except _Retriable as failure:
                pause_s = backoff_s(attempt, failure.retry_after)
                in_time = time.monotonic() + pause_s < deadline
                if attempt == MAX_ATTEMPTS or not in_time or not self._budget.take():
                    raise failure.error from failure.__cause__
                self.retries += 1
                await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    async def _attempt(self, method: str, path: str, body: bytes | None, deadline: float) -> bytes:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise self._too_slow(0.0)
        base = self.backend.api_base
        timeout = httpx.Timeout(left_s, connect=min(self._connect_timeout_s, left_s), pool=min(2.0, left_s))
        headers = {"Content-Type": "application/json"} if body is not None else {}
        client = self._client
        try:
            async with client.stream(method, base + path, content=body, headers=headers, timeout=timeout) as response:
                self._pool_faults = 0
                answer = await self._read(response, deadline)
                self._check_status(response, answer)
                return answer
        except httpx.PoolTimeout as error:
            self._distrust(client)
            raise BackendOverloaded(
                f"All {self._max_connections} connections to {base} are busy: send less, or wait."
            ) from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Retriable(
                BackendError(
                    f"No LLM server answers at {base} ({_reason(error)}): start it, or correct LLM_API_BASE.",
                    base=base,
                )
            ) from error
        except httpx.TimeoutException as error:
            raise self._too_slow(left_s) from error
        except httpx.TransportError as error:
            # Reset or closed without an answer, often an idle connection that the server had just closed.
            raise _Retriable(
                BackendError(f"The LLM server at {base} broke off the connection ({_reason(error)}): see its log.")
            ) from error
        except httpx.HTTPError as error:
            raise BackendBadAnswer(f"The LLM server at {base} does not speak HTTP ({_reason(error)}).") from error

    async def _read(self, response: httpx.Response, deadline: float) -> bytes:
        coding = response.headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise BackendBadAnswer(f"The LLM server compressed its answer ({coding}) although it was asked not to.")
        pieces: list[bytes] = []
        size = 0
        try:
            async for piece in response.aiter_raw():
                size += len(piece)
                if size > self._max_response_bytes:
                    raise BackendBadAnswer(f"The LLM server's answer is larger than {self._max_response_bytes} bytes.")
                if time.monotonic() > deadline:
                    raise self._too_slow(0.0)
                pieces.append(piece)
        except httpx.RemoteProtocolError as error:
            if size:
                raise BackendBadAnswer("The LLM server broke off in the middle of its answer: see its log.") from error
            raise
        return b"".join(pieces)

    def _check_status(self, response: httpx.Response, body: bytes) -> None:
        status = response.status_code
        if status == 200:
            return
        says = error_text(body)
        base = self.backend.api_base
        if 300 <= status < 400:
            raise BackendBadAnswer(f"{base} answered with a redirect ({status}): set LLM_API_BASE to its target.")
        if status in (429, 503):
            error = BackendOverloaded(f"The LLM server at {base} is overloaded ({status}){says}: wait and try again.")
            raise _Retriable(error, response.headers.get("retry-after"))
        if status in (401, 403):
            raise BackendRefused(f"The LLM server at {base} refuses the key ({status}): correct LLM_API_KEY.")
        if status == 404:
            raise BackendRefused(
                f"The LLM server at {base} does not know the model {self.backend.model!r} or the path "
                f"({status}){says}: correct LLM_MODEL_NAME or LLM_API_BASE."
            )
        if 400 <= status < 500:
            raise BackendRefused(f"The LLM server at {base} refused the request ({status}){says}.")
        raise BackendError(f"The LLM server at {base} failed ({status}){says}: see its log.", status=status)

    def _distrust(self, client: httpx.AsyncClient) -> None:
        """Count a fault of the pool; replace the HTTP client after a few, and let the old one end its calls."""
        self._pool_faults += 1
        if self._pool_faults < _FAULTS_BEFORE_REBUILD or client is not self._client:
            return
        self._pool_faults = 0
        self.rebuilds += 1
        self._client = self._new_client()
        self._retired.append(client)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
