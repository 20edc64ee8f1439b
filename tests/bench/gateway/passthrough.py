"""What the gateway is measured against: FastAPI that hands a request on to the model and the answer back.

Run by the bench: `python -m tests.bench.gateway.passthrough UPSTREAM PORT`. One httpx client over aiohttp's transport,
under uvicorn with uvloop and httptools, as the gateway runs: the least that an LLM gateway in Python can be. It parses,
logs and counts nothing.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from httpx_aiohttp import AiohttpTransport


def create_app(upstream: str) -> FastAPI:
    """The app; `upstream` ends with /v1."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(transport=AiohttpTransport(), trust_env=False, timeout=60.0) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        answer = await app.state.client.post(
            f"{upstream}/chat/completions",
            content=await request.body(),
            headers={"content-type": "application/json"},
        )
        return Response(answer.content, answer.status_code, media_type=answer.headers["content-type"])

    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(sys.argv[1]),
        port=int(sys.argv[2]), loop="uvloop", http="httptools", ws="none", access_log=False, log_level="warning",
    )  # fmt: skip
