"""Where a request comes from, out of what the access layer found out about it."""

from __future__ import annotations

from fastapi import Request

from gateway.asks import Origin
from gateway.caller import Caller


def origin_of(request: Request) -> Origin:
    """Ids and key of this request; routes with a scope only."""
    state = request.state
    state.accepted = True  # from here on the search tells what became of it
    caller: Caller = state.caller
    return Origin(
        request_id=state.request_id,
        trace=state.trace,
        key_id=caller.key_id,
        client_request_id=state.client_request_id,
    )
