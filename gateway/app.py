"""Wires the FastAPI application: `create_app(config)`. Parses, asks and renders nothing itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from gateway.middleware import EdgeMiddleware
from gateway.parts import Config, Parts
from gateway.problems import install_problem_handlers
from gateway.routes import ops, search

_ABOUT = "도구 검색: 질문에 맞는 도구를 찾아 LLM으로 답합니다. Tool search: finds tools for a question, an LLM answers."


def create_app(config: Config, parts: Parts | None = None) -> FastAPI:
    """The application over `parts`, which are opened here where the caller has not done so. Closes them at
    the end.
    """
    opened = parts if parts is not None else Parts(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await opened.start()
        try:
            yield
        finally:
            await opened.aclose()

    # No /docs: its page would load scripts from elsewhere. /openapi.json has the whole description.
    app = FastAPI(title="Mulle", version="1", description=_ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.parts = opened
    install_problem_handlers(app, opened.metrics)
    app.include_router(search.router)
    app.include_router(ops.router)
    settings = config.gateway
    app.add_middleware(
        EdgeMiddleware,
        metrics=opened.metrics,
        max_body_bytes=settings.max_body_bytes,
        body_timeout_s=settings.body_timeout_s,
    )
    return app
