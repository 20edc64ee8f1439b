"""Wires the FastAPI application: `create_app(config)`. Parses, asks and renders nothing itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from gateway.door import DoorMiddleware
from gateway.middleware import EdgeMiddleware
from gateway.parts import Config, Parts
from gateway.problems import install_problem_handlers
from gateway.routes import completions, feedback, ops, requests, search

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
    # No redirect to a path with or without its last slash: it would name whatever Host the caller sent.
    app = FastAPI(
        title="Mulle", version="1", description=_ABOUT, lifespan=lifespan,
        docs_url=None, redoc_url=None, redirect_slashes=False,
        # FastAPI's own looks for providers at every request (3 % of its time); ours are tracing.py and metrics.py.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )  # fmt: skip
    app.state.parts = opened
    install_problem_handlers(app, opened.metrics)
    for router in (
        search.router, feedback.feedback_router, feedback.review_router, requests.router, completions.router,
        ops.router, ops.inside,
    ):  # fmt: skip
        # Not include_router: it keeps a tree of routers, and walks it for every request.
        app.router.routes.extend(router.routes)
    # The last one added is the outermost: edge, CORS, door, routes.
    app.add_middleware(
        DoorMiddleware,
        access=opened.access,
        metrics=opened.metrics,
        max_body_bytes=config.gateway.max_body_bytes,
        body_timeout_s=config.gateway.body_timeout_s,
    )
    if config.access.origins:
        add_cors(app, config.access.origins)
    app.add_middleware(EdgeMiddleware, metrics=opened.metrics)
    return app


def add_cors(app: FastAPI, origins: Sequence[str]) -> None:
    """Let pages of these origins call with a key of their own. No cookies: a key comes in a header, so credentials
    stay off, and a page can't ride on what a browser knows.
    """
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID", "traceparent"],
        expose_headers=["X-Request-ID", "traceparent", "Retry-After", "RateLimit", "RateLimit-Policy"],
        max_age=600,
    )
