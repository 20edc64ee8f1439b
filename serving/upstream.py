"""One LLM server as an HTTP peer: connections, time limits, and every fault as a typed error.

Runs on aiohttp: measured against httpx, and against httpx over the httpx-aiohttp transport, it costs least a call, and
a call cancelled in it only closes its own connection (docs/decisions/0009). Invariants: nothing outlasts its
`Deadline`; nothing is decompressed; no redirect is followed; proxies, netrc and cookies are ignored; a name that leads
to a forbidden address is not called; a connection whose answer was not read to its end is closed and not used again.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from aiohttp.abc import ResolveResult
from yarl import URL

from lake.errors import BackendBadAnswer, BackendError, BackendOverloaded, BackendRefused, BackendTimeout
from serving.answers import blames_model, error_text
from serving.backends import Backend, is_forbidden

_KEEPALIVE_S = 4.0  # below the 5 s after which uvicorn and llama.cpp close idle connections
_SLOT_WAIT_S = 2.0
_MAX_ERROR_BYTES = 64 << 10


class Deadline:
    """A point in time that all parts of one call share."""

    __slots__ = ("at", "limit_s")

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.at = time.monotonic() + limit_s

    def left_s(self) -> float:
        """Seconds until it; negative after it."""
        return self.at - time.monotonic()

    def within(self, limit_s: float) -> Deadline:
        """This deadline, or `limit_s` from now where that is earlier."""
        sooner = Deadline(limit_s)
        return sooner if sooner.at < self.at else self


class CheckedResolver(aiohttp.ThreadedResolver):
    """Looks names up, and refuses addresses that must not be called: a name may point elsewhere than at the start."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises `OSError` where the name does not resolve or leads to a forbidden address."""
        found = await super().resolve(host, port, family)
        for entry in found:
            if is_forbidden(entry["host"]):
                raise OSError(None, f"{host} is {entry['host']} now: not permitted")
        return found


class Retriable(Exception):
    """One attempt failed before its answer began; `error` is what the caller gets when no retry is left."""

    def __init__(self, error: BackendError, retry_after: str | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after


class Upstream:
    """For one event loop. Connections are opened at the first call, at most `max_connections` at once."""

    def __init__(self, backend: Backend, connect_timeout_s: float, max_connections: int) -> None:
        self._backend = backend
        self._connect_timeout_s = connect_timeout_s
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(max_connections)
        self._urls: dict[str, URL] = {}
        self._closed = False
        self.open = 0  # exchanges under way

    @asynccontextmanager
    async def exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None, deadline: Deadline
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to one request, its body unread. Raises `Retriable` or the `BackendError` family, also for
        what goes wrong while the block reads the body.
        """
        await self._take_slot(deadline)
        self.open += 1
        response: aiohttp.ClientResponse | None = None
        base = self._backend.api_base
        try:
            session, url = self._http(), self._url(path)
            async with asyncio.timeout(deadline.left_s()):
                response = await session.request(method, url, data=body, headers=headers, allow_redirects=False)
            coding = response.headers.get("content-encoding", "identity").strip().lower()
            if coding not in ("", "identity"):
                raise BackendBadAnswer(f"The LLM server compressed its answer ({coding}) although it was asked not to.")
            yield response
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
            message = f"No LLM server answers at {base} ({reason(error)}): start it, or correct LLM_API_BASE."
            raise Retriable(BackendError(message, base=base)) from error
        except TimeoutError as error:
            raise self.too_slow(deadline) from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            # Reset or closed without an answer, often an idle connection that the server had just closed.
            message = f"The LLM server at {base} broke off the connection ({reason(error)}): see its log."
            raise Retriable(BackendError(message)) from error
        except (aiohttp.ClientError, ValueError) as error:
            raise BackendBadAnswer(f"The LLM server at {base} does not speak HTTP ({reason(error)}).") from error
        finally:
            if response is not None:
                response.release()
            self.open -= 1
            self._slots.release()

    async def next_bytes(self, response: aiohttp.ClientResponse, deadline: Deadline) -> bytes:
        """What has come of the body, empty at its end. To be called inside `exchange`."""
        left_s = deadline.left_s()
        if left_s <= 0:
            raise self.too_slow(deadline)
        async with asyncio.timeout(left_s):
            return await response.content.readany()

    async def whole_body(self, response: aiohttp.ClientResponse, max_bytes: int, deadline: Deadline) -> bytes:
        """The body. Raises `BackendBadAnswer` where it is larger, or breaks off after it began; of an error only the
        beginning is read.
        """
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(deadline.left_s()):
                while piece := await response.content.readany():
                    size += len(piece)
                    pieces.append(piece)
                    if response.status != 200 and size > _MAX_ERROR_BYTES:
                        break
                    if size > max_bytes:
                        raise BackendBadAnswer(f"The LLM server's answer is larger than {max_bytes} bytes.")
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as error:
            if not size or isinstance(error, TimeoutError):
                raise
            raise BackendBadAnswer("The LLM server broke off in the middle of its answer: see its log.") from error
        return b"".join(pieces)

    def too_slow(self, deadline: Deadline) -> BackendTimeout:
        """The error of a call whose time is over."""
        return BackendTimeout(
            f"The LLM server at {self._backend.api_base} did not answer within {deadline.limit_s:.1f} s: try again, "
            "lower MULLE_MAX_TOKENS, or raise MULLE_LLM_TIMEOUT_S.",
            limit_s=deadline.limit_s,
        )

    async def aclose(self) -> None:
        """Close the connections; what is under way ends with an error. Safe to repeat."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _take_slot(self, deadline: Deadline) -> None:
        if not self._slots.locked():
            await self._slots.acquire()  # does not suspend
            return
        try:
            async with asyncio.timeout(min(_SLOT_WAIT_S, deadline.left_s())):
                await self._slots.acquire()
        except TimeoutError as error:
            if deadline.left_s() <= 0:
                raise self.too_slow(deadline) from error
            raise BackendOverloaded(
                f"All {self._max_connections} connections to {self._backend.api_base} are busy: send less, or wait."
            ) from error

    def _http(self) -> aiohttp.ClientSession:
        if self._closed:
            raise BackendError("The connection to the LLM server was closed: send the question again.")
        if self._session is None:
            headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "mulle"}
            if self._backend.api_key:
                headers["Authorization"] = f"Bearer {self._backend.api_key}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # `_slots` is the limit
                    keepalive_timeout=_KEEPALIVE_S,
                    resolver=CheckedResolver(),
                ),
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_timeout_s, ceil_threshold=3600),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
            )
        return self._session

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self._backend.api_base + path)
        return url


def reason(error: BaseException) -> str:
    """What an exception says, or its name."""
    return str(error) or type(error).__name__


def check_status(status: int, retry_after: str | None, body: bytes, backend: Backend) -> None:
    """Returns for 200 only. Raises `Retriable` for 429 and 503, else the `BackendError` family.

    `detail` has `status`, and `unknown_model` where the server lacks the model.
    """
    if status == 200:
        return
    says = error_text(body)
    base = backend.api_base
    if 300 <= status < 400:
        raise BackendBadAnswer(f"{base} answered with a redirect ({status}): set LLM_API_BASE to its target.")
    if status in (429, 503):
        message = f"The LLM server at {base} is overloaded ({status}){says}: wait and try again."
        raise Retriable(BackendOverloaded(message, status=status), retry_after)
    if status in (401, 403):
        key = "refuses the key" if backend.api_key else "asks for a key"
        raise BackendRefused(f"The LLM server at {base} {key} ({status}){says}: correct LLM_API_KEY.", status=status)
    if status == 404 or (status == 400 and blames_model(body)):
        raise BackendRefused(
            f"The LLM server at {base} does not know the model {backend.model!r} or the path "
            f"({status}){says}: {backend.how_to_load(backend.model)}, or correct LLM_MODEL_NAME or LLM_API_BASE.",
            status=status, unknown_model=True,
        )  # fmt: skip
    if 400 <= status < 500:
        raise BackendRefused(f"The LLM server at {base} refused the request ({status}){says}.", status=status)
    raise BackendError(f"The LLM server at {base} failed ({status}){says}: see its log.", status=status)
