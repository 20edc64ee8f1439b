"""No route is open by accident: each has a scope, or stands in the short list of those that need none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.dependencies.models import Dependant

from gateway.app import create_app
from gateway.auth import RequireScope, require_scope
from gateway.parts import Config, Parts

OPEN = {"/livez", "/readyz", "/openapi.json"}


def scopes_of(dependant: Dependant) -> set[str]:
    found = {dependant.call.scope} if isinstance(dependant.call, RequireScope) else set()
    return found.union(*(scopes_of(inner) for inner in dependant.dependencies))


def routes(routed: Any) -> Iterator[tuple[str, Any]]:
    """(path, dependant or None) of every route. FastAPI keeps an included router as one entry with its own routes;
    whatever this walk does not know (a mount, a plain Starlette route) has no dependant and so counts as open.
    """
    inner = getattr(routed, "effective_candidates", None)
    for route in inner() if inner is not None else routed.routes:
        if hasattr(route, "effective_candidates"):
            yield from routes(route)
        else:
            path = str(getattr(route, "path", route)).replace(":path}", "}")  # as OpenAPI writes it
            yield path, getattr(route, "dependant", None)


def without_scope(app: FastAPI) -> set[str]:
    return {path for path, dependant in routes(app) if dependant is None or not scopes_of(dependant)}


def test_every_route_has_a_scope_or_is_open_on_purpose(make_config: Callable[..., Config]) -> None:
    config = make_config()
    parts = Parts(config)
    try:
        app = create_app(config, parts)
    finally:
        parts.journal.close()
    assert without_scope(app) == OPEN
    described = app.openapi()["paths"]
    listed = {path for path, _ in routes(app)}
    assert set(described) <= listed  # the walk above has seen every described path
    for path, operations in described.items():
        for operation in operations.values():
            assert bool(operation.get("security")) is (path not in OPEN), path


def test_a_route_without_a_scope_is_noticed() -> None:
    app = FastAPI(openapi_url=None)
    inner = APIRouter(dependencies=[Depends(require_scope("admin"))])
    inner.add_api_route("/closed", lambda: None)
    outer = APIRouter()
    outer.include_router(inner)
    outer.add_api_route("/forgotten-inside", lambda: None)
    app.include_router(outer)
    app.add_api_route("/forgotten", lambda: None)
    app.mount("/mounted", FastAPI())
    assert without_scope(app) == {"/forgotten", "/forgotten-inside", "/mounted"}
