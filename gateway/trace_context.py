"""W3C trace context of one request (https://www.w3.org/TR/trace-context/, section 3.2). Pure.

A valid incoming `traceparent` is continued: same trace id, our own span id. Anything else begins a new trace, as the
specification asks.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """`span_id` is this request's span; `parent_id` is the caller's, empty where the trace begins here."""

    trace_id: str  # 32 lower-case hex digits
    span_id: str  # 16
    parent_id: str
    sampled: bool

    @property
    def traceparent(self) -> str:
        """The header for whoever is called next, and for the answer."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def incoming(header: str | None) -> TraceContext:
    """The context of a request with this `traceparent` header (None: there was none)."""
    found = _TRACEPARENT.match(header.strip()) if header else None
    span_id = secrets.token_hex(8)
    if found:
        version, trace_id, parent_id, flags, more = found.groups()
        whole = version != "ff" and not (version == "00" and more)
        if whole and trace_id != "0" * 32 and parent_id != "0" * 16:
            return TraceContext(trace_id, span_id, parent_id, bool(int(flags, 16) & 1))
    return TraceContext(secrets.token_hex(16), span_id, "", True)
