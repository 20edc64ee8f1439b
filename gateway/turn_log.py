"""One log line a search. Apart from logs.py, which the light parent process imports too."""

from __future__ import annotations

import structlog

from gateway.turns import TurnRecord

log = structlog.get_logger("gateway.search")


class TurnLog:
    """A `TurnObserver`: one line a search, with what became of it and where the time went, and nobody's text."""

    def turn_ended(self, turn: TurnRecord) -> None:
        """Write the line."""
        backend = turn.backend
        log.info(
            turn.operation,
            outcome=turn.outcome,
            backend=backend.profile if backend else None,
            model=backend.model if backend else None,
            fallback=turn.fallback,
            streamed=turn.streamed,
            stored=turn.stored,
            total_ms=round(turn.latency_ms.get("total", 0.0), 1),
            llm_ms=round(turn.latency_ms.get("llm", 0.0), 1),
            error=str(getattr(turn.error, "code", type(turn.error).__name__)) if turn.error else None,
        )
