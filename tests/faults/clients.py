"""Clients that read every byte themselves: a head without its body, a stream without its end are seen as such.

httpx would hide which part of an answer came. One connection a request; the answer is whole where its length or its
chunks say so.
"""

from __future__ import annotations

import asyncio
import random
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import orjson

SEARCH, CHAT = "/api/v1/search", "/v1/chat/completions"
QUESTIONS = ("디자이너 여럿이 화면 시안을 같이 고치는 도구", "which tool tracks bugs?", "회의를 영상으로 하고 싶어요")


@dataclass(slots=True)
class Reply:
    """What arrived of one answer. `body` is unchunked; `whole`: nothing is missing."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def streamed(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    def json(self) -> Any:
        return orjson.loads(self.body)

    def events(self) -> list[tuple[str, Any]]:
        """(items|token|done|error, data) of each whole event of a stream, whichever of the two protocols it speaks."""
        found: list[tuple[str, Any]] = []
        for block in self.body.split(b"\n\n")[:-1]:
            lines = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line and line[:1] != b":")
            if b"event" in lines:
                found.append((lines[b"event"].decode(), orjson.loads(lines[b"data"])))
            elif lines.get(b"data", b"[DONE]") != b"[DONE]":
                found += _openai_event(orjson.loads(lines[b"data"]))
        return found

    @property
    def text(self) -> str:
        """Of a stream, as far as it came."""
        return "".join(data["text"] for name, data in self.events() if name == "token")

    @property
    def answered(self) -> bool:
        """A whole answer, not a problem."""
        if self.streamed:
            return any(name == "done" for name, _ in self.events())
        return self.status == 200 and self.whole

    @property
    def served_by(self) -> str:
        """The model that a whole answer names."""
        last = self.events()[-1][1] if self.streamed else self.json()
        return str(((last.get("mulle") or last).get("served_by") or {}).get("model"))

    @property
    def code(self) -> str:
        """Of the problem, also of one that ends a stream; empty where there is none."""
        if not self.streamed:
            return "" if self.status == 200 else str(self.json().get("code"))
        return next((str(data.get("code")) for name, data in self.events() if name == "error"), "")

    @property
    def ended(self) -> bool:
        """A whole JSON answer, or a stream with its last event: the record of it must be durable by now."""
        if not self.streamed:
            return self.whole
        return any(name in ("done", "error") for name, _ in self.events())


def _openai_event(chunk: dict[str, Any]) -> list[tuple[str, Any]]:
    if "error" in chunk:
        return [("error", chunk["error"])]
    for choice in chunk["choices"]:
        if choice["finish_reason"]:
            return [("done", chunk)]
        if text := choice["delta"].get("content"):
            return [("token", {"text": text})]
    return [("items", chunk)]


@dataclass(frozen=True, slots=True)
class Question:
    """One request: to our own endpoint, or to the OpenAI-compatible one."""

    text: str
    stream: bool
    openai: bool = False
    allow_degraded: bool = False

    @classmethod
    def draw(cls, rng: random.Random, stream_share: float, degraded_share: float = 0.0) -> Question:
        """One in four goes to the OpenAI-compatible endpoint."""
        openai, stream, degraded = rng.random() < 0.25, rng.random() < stream_share, rng.random() < degraded_share
        return cls(rng.choice(QUESTIONS), stream, openai, degraded)

    def request(self, url: str, connection: str = "close") -> bytes:
        """The bytes to send."""
        more = {"allow_degraded": True} if self.allow_degraded else {}
        if self.openai:
            messages = [{"role": "user", "content": self.text}]
            body = {"model": "mulle", "messages": messages, "stream": self.stream, "mulle": more}
        else:
            body = {"question": self.text, "stream": self.stream, **more}
        data = orjson.dumps(body)
        head = f"POST {CHAT if self.openai else SEARCH} HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n"
        head += f"content-type: application/json\r\nconnection: {connection}\r\n"
        return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


def parse(data: bytes, at_end: bool) -> Reply | None:
    """What these bytes hold of an answer; None before the head is whole. `at_end`: the connection was closed."""
    head, gap, rest = data.partition(b"\r\n\r\n")
    if not gap:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if "content-length" in headers:
        body, whole = rest, len(rest) >= int(headers["content-length"])
    elif headers.get("transfer-encoding") == "chunked":
        body, whole = _unchunk(rest)
    else:
        body, whole = rest, at_end
    return Reply(int(first.split(" ")[1]), headers, body, whole)


def _unchunk(data: bytes) -> tuple[bytes, bool]:
    body = b""
    while True:
        size, gap, data = data.partition(b"\r\n")
        if not gap:
            return body, False
        length = int(size, 16)
        if length == 0:
            return body, True
        body += data[:length]
        if len(data) < length + 2:
            return body, False
        data = data[length + 2 :]


async def ask(url: str, question: Question, timeout_s: float = 60.0) -> Reply | None:
    """One request; what came of its answer, None where no head came. Raises `TimeoutError` where it does not end."""
    parts = urlsplit(url)
    async with asyncio.timeout(timeout_s):
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            return None
        data = b""
        try:
            writer.write(question.request(url))
            while piece := await reader.read(1 << 16):
                data += piece
                reply = parse(data, at_end=False)
                if reply is not None and reply.whole:
                    return reply
        except OSError:
            pass
        finally:
            writer.transport.abort()
    return parse(data, at_end=True)


@dataclass
class Users:
    """`count` users in a thread that ask one question after the other until the block ends, some of them streamed."""

    url: str
    count: int
    seed: int
    stream_share: float = 0.5
    pause_s: float = 0.0
    replies: list[Reply] = field(default_factory=list[Reply])
    unanswered: int = 0  # no head came: refused, or cut off before it
    hung: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    async def _user(self, number: int) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        while not self._stop.is_set():
            try:
                reply = await ask(self.url, Question.draw(rng, self.stream_share))
            except TimeoutError:
                self.hung += 1
                continue
            if reply is None:
                self.unanswered += 1
                await asyncio.sleep(0.02)
            else:
                self.replies.append(reply)
            await asyncio.sleep(self.pause_s)

    async def _run(self) -> None:
        await asyncio.gather(*(self._user(number) for number in range(self.count)))

    def __enter__(self) -> Users:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def stop(self) -> None:
        """Let the users end their last question."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
