"""An LLM server that does nothing but take its time: JSON answers and streams, word by word. In a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import uvloop

TEXT = "추천: Figma 이유: 여러 명이 브라우저에서 같은 화면을 함께 고칠 수 있습니다. 링크: https://www.figma.com"
WORDS = TEXT.split()


@dataclass(slots=True)
class StubModel:
    """`delay_s`: before an answer begins; `word_s`: between two words of a stream. Both may be changed at any time."""

    name: str
    delay_s: float = 0.0
    word_s: float = 0.0
    base: str = ""
    asked: int = 0
    broken_off: int = 0  # streams whose reader went away

    def env(self) -> dict[str, str]:
        """LLM_* that point here."""
        return {"LLM_API_BASE": self.base, "LLM_MODEL_NAME": self.name, "LLM_PROFILE": "vllm"}


@contextlib.contextmanager
def run_model(name: str = "model-a", delay_s: float = 0.0, word_s: float = 0.0) -> Iterator[StubModel]:
    """A server on a free port of loopback."""
    model = StubModel(name, delay_s, word_s)
    started, loop = threading.Event(), uvloop.new_event_loop()
    ended = asyncio.Event()

    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: _serve(model, reader, writer), "127.0.0.1", 0)
        model.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        started.set()
        await ended.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield model
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)


async def _serve(model: StubModel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, found, rest = head.partition(b"content-length:")
            body = await reader.readexactly(int(rest.split(b"\r\n", 1)[0])) if found else b""
            if not head.startswith(b"post"):
                _send(writer, {"object": "list", "data": [{"id": model.name}]})
                continue
            model.asked += 1
            await asyncio.sleep(model.delay_s)
            if orjson.loads(body).get("stream"):
                await _stream(model, writer)
            else:
                message = {"role": "assistant", "content": TEXT}
                choices = [{"index": 0, "finish_reason": "stop", "message": message}]
                _send(writer, {"model": model.name, "choices": choices, "usage": _usage()})
            await writer.drain()
    except (OSError, RuntimeError, asyncio.IncompleteReadError):  # uvloop: RuntimeError once closed
        pass
    finally:
        writer.transport.abort()


def _usage() -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": len(WORDS), "total_tokens": 7 + len(WORDS)}


def _send(writer: asyncio.StreamWriter, answer: object) -> None:
    data = orjson.dumps(answer)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data) + data)


async def _stream(model: StubModel, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    deltas = [{"content": word if n == 0 else f" {word}"} for n, word in enumerate(WORDS)]
    chunks: list[dict[str, object]] = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({"choices": [], "usage": _usage()})
    try:
        for data in [*(orjson.dumps({"model": model.name, **chunk}) for chunk in chunks), b"[DONE]"]:
            event = b"data: " + data + b"\n\n"
            writer.write(b"%x\r\n" % len(event) + event + b"\r\n")
            await writer.drain()
            await asyncio.sleep(model.word_s)
        writer.write(b"0\r\n\r\n")
    except (OSError, RuntimeError):
        model.broken_off += 1
        raise


def main() -> None:
    """`python -m tests.faults.stub_model <delay s>`: the same in a process of its own, so that load and model do not
    share one interpreter. Prints its address and runs until standard input ends.
    """
    with run_model("stub", float(sys.argv[1])) as model:
        print(model.base, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
