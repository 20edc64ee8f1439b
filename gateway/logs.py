"""Structured logs of the gateway process: one JSON object a line on stderr. No question or answer text is
logged.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog


def configure_logs(level: str, worker: int | None = None) -> None:
    """Set up logging for the whole process; called once, by each worker and by their parent (`worker` None).

    Lines of the standard library's loggers (uvicorn's, OpenTelemetry's) take the same shape.
    """
    marks = {} if worker is None else {"worker": worker}

    def mark(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.update(marks)
        return event

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JSONFormatter(marks))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.INFO, getattr(logging, level.upper())))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            mark,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=str).decode()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


class _JSONFormatter(logging.Formatter):
    def __init__(self, marks: Mapping[str, Any]) -> None:
        super().__init__()
        self._marks = marks

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            **self._marks,
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()
