"""What one call of the LLM client costs against a stub model on loopback, beside the transports it could run over.

    .venv/bin/python tests/bench/run.py llm_client

Arms: `LLMClient.chat`; the same request through plain httpx and through httpx over the httpx-aiohttp transport, both
without retries, deadlines, bounds or checks. Each round measures each arm: p50 of 400 calls one after another, and
calls a second of 16 callers. Decision 0009 rests on these figures.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import httpx
import httpx_aiohttp
import orjson
import uvloop

from serving.backends import Backend
from serving.client import LLMClient
from tests.bench.gateway.processes import cores, free_port, module, running
from tests.bench.gateway.stub import MODEL
from tests.bench.run import Figure

_MESSAGES = [{"role": "user", "content": "질문: 협업 도구 추천해줘\n\n관련 정보:\n" + "도구 설명 " * 60}]
_CALLS, _CALLERS, _EACH = 400, 16, 60
Ask = Callable[[], Awaitable[object]]


def figures(rounds: int, arguments: Sequence[str]) -> list[Figure]:
    """Latency (ms) and calls a second of each arm, and the ratios to httpx over httpx-aiohttp."""
    port = free_port()
    base = f"http://127.0.0.1:{port}/v1"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "stub.log"
        with running(module("stub", port), cores()[1], f"{base}/models", log, {}):
            latency, rate = uvloop.run(_measure(base, rounds))
    found: list[Figure] = []
    for arm in latency:
        found.append(Figure(f"{arm}, one caller, p50", "ms", latency[arm]))
        found.append(Figure(f"{arm}, {_CALLERS} callers", "1/s", rate[arm]))
    slower = [ours / theirs for ours, theirs in zip(latency["LLMClient"], latency["httpx-aiohttp"], strict=True)]
    faster = [ours / theirs for ours, theirs in zip(rate["LLMClient"], rate["httpx-aiohttp"], strict=True)]
    found.append(Figure("LLMClient / httpx-aiohttp, p50", "x", slower, "httpx-aiohttp", "<= 1.0"))
    found.append(Figure("LLMClient / httpx-aiohttp, calls a second", "x", faster, "httpx-aiohttp", ">= 1.0"))
    return found


async def _measure(base: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    client = LLMClient(Backend("vllm", base, MODEL))
    over = httpx.AsyncClient(transport=httpx_aiohttp.AiohttpTransport(trust_env=False), trust_env=False)
    plain = httpx.AsyncClient(trust_env=False)
    arms: dict[str, Ask] = {
        "LLMClient": lambda: client.chat(_MESSAGES, 160),
        "httpx-aiohttp": lambda: _post(over, base),
        "httpx": lambda: _post(plain, base),
    }
    latency: dict[str, list[float]] = {arm: [] for arm in arms}
    rate: dict[str, list[float]] = {arm: [] for arm in arms}
    try:
        for number in range(rounds):
            for arm in arms if number % 2 == 0 else reversed(arms):
                await _many(arms[arm], 50)
                latency[arm].append(await _one_caller(arms[arm]))
                rate[arm].append(await _callers(arms[arm]))
    finally:
        await client.aclose()
        await over.aclose()
        await plain.aclose()
    return latency, rate


async def _post(client: httpx.AsyncClient, base: str) -> object:
    body = {"model": MODEL, "messages": _MESSAGES, "max_tokens": 160, "temperature": 0.0, "stream": False}
    headers = {"content-type": "application/json"}
    response = await client.post(f"{base}/chat/completions", content=orjson.dumps(body), headers=headers)
    return orjson.loads(response.content)["choices"][0]["message"]["content"]


async def _many(ask: Ask, times: int) -> None:
    for _ in range(times):
        await ask()


async def _one_caller(ask: Ask) -> float:
    """Median time of a call, ms."""
    times: list[float] = []
    for _ in range(_CALLS):
        start = time.perf_counter()
        await ask()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


async def _callers(ask: Ask) -> float:
    """Calls a second of `_CALLERS` at once."""
    start = time.perf_counter()
    await asyncio.gather(*(_many(ask, _EACH) for _ in range(_CALLERS)))
    return _CALLERS * _EACH / (time.perf_counter() - start)
