"""Promises 1 and 6: clients that go away at any moment wedge nothing, leak nothing and leave a whole record.

Raw sockets leave after the connect, in the head, in the body, while the gateway works, or in the middle of an answer,
with a reset or an orderly end, for JSON answers and streams. Then every accepted request has both halves, a stream's
record holds at least the text that its client saw, nothing counts as in flight, no descriptor is left behind, and the
next hundred calls succeed.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from tests.faults.clients import QUESTIONS, Question, ask, parse
from tests.faults.gateways import journalled, make_index, running_gateway
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.faults.stub_model import TEXT, run_model
from tests.gateway.kit import Gateway, wait_until

NAME, PROMISE, UNIT, FULL = "disconnects", "1, 6", "clients that go away", 20_000
AT_ONCE = 24  # below MULLE_MAX_IN_FLIGHT, so that none is refused for load
AFTER = 100
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 s: close sends RST
_TOKEN = (b"event: token", b'"content":')  # our own protocol's, OpenAI's
STAGES = ("connect", "head", "body", "sent", "reading")


@dataclass(slots=True)
class Seen:
    """What clients saw before they left: request id → text of a stream."""

    texts: dict[str, str] = field(default_factory=dict[str, str])


def run(cycles: int, seed: int, scratch: Path, progress: Progress = quiet, bug: str = "") -> Tally:
    """`bug`: one that `buggy_gateway` plants."""
    tally = Tally()
    index = make_index()
    data_dir = scratch / "data"
    seen = Seen()
    env = {"MULLE_LOG_LEVEL": "error", "MULLE_WORKERS": "1"}
    with (
        run_model(delay_s=0.02, word_s=0.01) as model,
        running_gateway(data_dir, index, {**model.env(), **env}, bug) as gateway,
    ):
        process = _worker(gateway)
        _after(gateway, seed, tally)  # everything that is opened once is open
        files, rss = process.num_fds(), process.memory_info().rss
        waiting: list[tuple[int, random.Random]] = []
        for cycle in cycles_of(cycles, seed, tally, progress):
            waiting.append(cycle)
            if len(waiting) == 20 * AT_ONCE or cycle[0] == seed + cycles - 1:
                asyncio.run(_leave_all(gateway.url, waiting, seen, tally))
                waiting.clear()
        try:
            wait_until(lambda: _in_flight(gateway) == 0, 30)
        except AssertionError:
            tally.check(False, seed, f"{_in_flight(gateway):.0f} requests still count as in flight")
        _after(gateway, seed, tally)
        left = process.num_fds() - files
        tally.check(left <= 8, seed, f"{left} descriptors were left behind")
        tally.figures["memory"] = f"{rss / 1e6:.0f} → {process.memory_info().rss / 1e6:.0f} MB"
        tally.check(gateway.stop() == 0 or bool(bug), seed, "did not end in order")
    _check_journal(data_dir, seen, seed, tally)
    return tally


def _worker(gateway: Gateway) -> psutil.Process:
    parent = psutil.Process(gateway.process.pid)
    return (parent.children() or [parent])[0]


def _in_flight(gateway: Gateway) -> float:
    text = httpx.get(f"{gateway.url}/metrics", trust_env=False).text
    values = [line.split(" ")[1] for line in text.splitlines() if line.startswith("mulle_in_flight")]
    return sum(map(float, values))


def _after(gateway: Gateway, seed: int, tally: Tally) -> None:
    """A hundred ordinary calls, eight at a time."""

    async def calls() -> list[object]:
        gate = asyncio.Semaphore(8)

        async def one(number: int) -> object:
            async with gate:
                question = Question(QUESTIONS[number % 3], number % 2 == 0, number % 5 == 0)
                return await ask(gateway.url, question, timeout_s=30)

        return await asyncio.gather(*(one(number) for number in range(AFTER)), return_exceptions=True)

    for reply in asyncio.run(calls()):
        good = getattr(reply, "answered", False)
        tally.counts["calls afterwards"] += 1
        tally.check(good, seed, f"an ordinary call failed: {reply!r:.300}")


async def _leave_all(url: str, cycles: list[tuple[int, random.Random]], seen: Seen, tally: Tally) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(rng: random.Random) -> None:
        async with gate:
            await _leave(url, rng, seen, tally)

    await asyncio.gather(*(one(rng) for _, rng in cycles))


async def _leave(url: str, rng: random.Random, seen: Seen, tally: Tally) -> None:
    stage, reset = rng.choice(STAGES), rng.random() < 0.5
    question = Question.draw(rng, 0.5)
    data = question.request(url)
    head_bytes = data.index(b"\r\n\r\n") + 4
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    tally.counts[f"left at {stage}"] += 1
    received = b""
    try:
        match stage:
            case "connect":
                pass
            case "head":
                writer.write(data[: rng.randrange(1, head_bytes)])
            case "body":
                writer.write(data[: rng.randrange(head_bytes, len(data))])
            case _:
                writer.write(data)
        await writer.drain()
        await asyncio.sleep(rng.choice([0.0, rng.uniform(0.0, 0.05)]))
        if stage == "reading":
            least_bytes, least_tokens = rng.randrange(1, 3000), rng.randrange(10) * question.stream
            while len(received) < least_bytes or received.count(_TOKEN[question.openai]) < least_tokens:
                if not (piece := await reader.read(rng.choice([64, 4096]))):
                    break
                received += piece
    except OSError:
        tally.counts["closed by the gateway"] += 1
    finally:
        if reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort() if reset else writer.close()
    reply = parse(received, at_end=False)
    if reply is not None and reply.status == 200:
        tally.counts["heads seen"] += 1
        seen.texts[reply.request_id] = reply.text if question.stream else ""


def _check_journal(data_dir: Path, seen: Seen, seed: int, tally: Tally) -> None:
    found = journalled(data_dir / "journal")
    tally.counts["records"] = len(found.responses)
    tally.check(not found.unanswered, seed, f"{len(found.unanswered)} accepted requests have no response half")
    tally.check(not found.doubled and not found.damage, seed, f"{found.doubled[:3]} doubled, {found.damage} damaged")
    for rid, text in seen.texts.items():
        row = found.responses.get(rid)
        tally.check(row is not None, seed, f"{rid} was delivered and is not in the journal")
        logged = (row or {}).get("llm_response_content") or ""
        tally.check(logged.startswith(text), seed, f"{rid}: the client saw {text!r}, the journal holds {logged!r}")
    inside = [rid for rid, text in seen.texts.items() if 0 < len(text) < len(TEXT) / 2]
    noticed = sum(found.responses.get(rid, {}).get("outcome") == "client_gone" for rid in inside)
    tally.figures["left in the first half of a stream"] = f"{len(inside)}, noticed {noticed}"
    tally.check(noticed >= 0.5 * len(inside), seed, f"only {noticed} of {len(inside)} streams ended with their reader")
    for row in found.responses.values():
        tally.counts[row["outcome"]] += 1
        content = row["llm_response_content"] or ""
        partial = row["outcome"] == "client_gone" and 0 < len(content) < len(TEXT)
        tally.counts["partial answers"] += partial
        tally.check(TEXT.startswith(content), seed, f"{row['request_id']}: journalled text {content!r}")
