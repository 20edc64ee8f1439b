"""GET /api/v1/requests/{id}: what was logged of a request, for an admin."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from gateway.auth import require_scope
from gateway.errors import UnknownRequestError
from gateway.parts import Parts
from gateway.routes.schemas import RequestId, problems
from lake.lookup import find_request, to_json

router = APIRouter(dependencies=[Depends(require_scope("admin"))])


@router.get(
    "/api/v1/requests/{request_id}",
    response_model=dict[str, Any],
    responses=problems(400, 401, 403, 404, 422, 429, 500),
    summary="What was logged of a request",
)
async def logged_request(request: Request, request_id: RequestId) -> Response:
    """Both halves from the journal and the row from the lake, as far as each has them, and the feedback. Of a request
    with `store: false` the text is shown as long as it is kept for operations.
    """
    parts: Parts = request.app.state.parts
    found = await asyncio.to_thread(find_request, parts.lake, request_id, with_feedback=True)
    if found is None:
        raise UnknownRequestError("There is no request with this id in the journal or the lake.")
    return Response(to_json(found), media_type="application/json")
