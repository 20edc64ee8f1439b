"""An OpenAI-compatible server on loopback whose answers a test scripts, faults among them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

Body = dict[str, Any]


@dataclass
class Said:
    """One response; `hang_s`: nothing is said for so long, then the connection closes."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])
    hang: threading.Event | None = None


def completion(text: str, finish: str = "stop", usage: tuple[int, int] | None = (100, 20)) -> Said:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    body: Body = {"id": "x", "object": "chat.completion", "model": "scripted", "choices": [choice]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return Said(body=orjson.dumps(body))


def failure(status: int, message: str = "no", **headers: str) -> Said:
    return Said(status, orjson.dumps({"error": {"message": message}}), headers)


@dataclass
class Scripted:
    """What was asked, in order, and how many at once at most."""

    base: str
    asked: list[Body] = field(default_factory=list[Body])
    most_at_once: int = 0


@contextmanager
def scripted_llm(script: Callable[[Body], Said]) -> Iterator[Scripted]:
    """Runs until the block ends; `script` is called in a thread for each completion."""
    lock = threading.Lock()
    now = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal now
            body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                now += 1
                state.most_at_once = max(state.most_at_once, now)
                state.asked.append(body)
            try:
                said = script(body)
                if said.hang is not None:
                    said.hang.wait(30)
                    self.close_connection = True
                    return
                self.send_response(said.status)
                for name, value in {"content-type": "application/json", **said.headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-length", str(len(said.body)))
                self.end_headers()
                self.wfile.write(said.body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with lock:
                    now -= 1

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state = Scripted(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
