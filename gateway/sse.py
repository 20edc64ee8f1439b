"""Server-Sent Events (WHATWG HTML, section 9.2): the bytes of one event, and a response that notices its client go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.asks import SearchResult

HEARTBEAT = b": still working\n\n"
# A proxy that buffers would hold the tokens back (nginx reads this header).
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(name: str | None, data: Any) -> bytes:
    """One event with a JSON value as its data, which has no line break of its own; `name` None: a plain message."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


async def relay(
    events: AsyncIterator[str | SearchResult | None],
    piece: Callable[[str], bytes],
    end: Callable[[SearchResult], bytes],
    failed: Callable[[Exception], bytes],
) -> AsyncIterator[bytes]:
    """What a search's stream gives (stream.py), as a protocol writes it. An error comes as the last event: by then the
    status is sent.
    """
    try:
        async for event in events:
            if event is None:
                yield HEARTBEAT
            else:
                yield end(event) if isinstance(event, SearchResult) else piece(event)
    except Exception as error:
        yield failed(error)


class _Stream(StreamingResponse):
    """Runs `on_close` however it ends, also where the client went before the first byte was asked for."""

    def __init__(self, events: AsyncIterator[bytes], on_close: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_HEADERS)
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()


def stream_response(events: AsyncIterator[bytes], on_close: Callable[[], None]) -> StreamingResponse:
    """Answer with `events`; `on_close` runs however it ends, also when the client goes in the middle."""
    return _Stream(events, on_close)
