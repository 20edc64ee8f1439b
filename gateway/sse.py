"""Server-Sent Events (WHATWG HTML, section 9.2): the bytes of one event, and a response that notices its client go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from starlette.responses import StreamingResponse

HEARTBEAT = b": still working\n\n"
# A proxy that buffers would hold the tokens back (nginx reads this header).
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def event(name: str | None, data: Any) -> bytes:
    """One event with a JSON value as its data, which has no line break of its own; `name` None: a plain message."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(data) + b"\n\n"


def stream_response(events: AsyncIterator[bytes], on_close: Callable[[], None]) -> StreamingResponse:
    """Answer with `events`; `on_close` runs however it ends, also when the client goes in the middle."""

    async def guarded() -> AsyncIterator[bytes]:
        try:
            async for piece in events:
                yield piece
        finally:
            on_close()

    return StreamingResponse(guarded(), media_type="text/event-stream", headers=_HEADERS)
