"""An OpenAI-compatible model server that does nothing: one constant answer, as fast as Python can send it.

Run by the bench: `python -m tests.bench.gateway.stub PORT`. Answers every POST with a chat completion (Server-Sent
Events where the body asks for `"stream":true`) and every GET with a list of one model, which is also health enough
for a router that asks. A raw protocol on uvloop: a framework would be the slowest part of what is measured.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import orjson
import uvloop

MODEL = "stub"
_TEXT = "추천: Figma\n이유: 여러 명이 브라우저에서 같은 화면을 함께 고칠 수 있습니다.\n링크: https://www.figma.com"


def _response(body: bytes, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _event(delta: dict[str, str], finish: str | None = None) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": choices}
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


_COMPLETION = _response(
    orjson.dumps(
        {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL,
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": _TEXT}}
            ],
            "usage": {"prompt_tokens": 212, "completion_tokens": 41, "total_tokens": 253},
        }
    )
)  # fmt: skip
_STREAM = _response(
    b"".join([_event({"role": "assistant", "content": ""}), *(_event({"content": word}) for word in _TEXT.split(" "))])
    + _event({}, "stop")
    + b"data: [DONE]\n\n",
    "text/event-stream",
)
_MODELS = _response(orjson.dumps({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "bench"}]}))


class Stub(asyncio.Protocol):
    """One connection, kept alive. Reads Content-Length only: its callers are HTTP clients, not attackers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own, not a subclass
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (head := self._data.find(b"\r\n\r\n")) >= 0:
            lower = self._data[:head].lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            end = head + 4 + length
            if len(self._data) < end:
                return
            body, is_post, self._data = self._data[head + 4 : end], lower.startswith(b"post"), self._data[end:]
            streamed = b'"stream":true' in body or b'"stream": true' in body
            self._transport.write((_STREAM if streamed else _COMPLETION) if is_post else _MODELS)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
