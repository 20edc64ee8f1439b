"""Errors that only the gateway raises. Each becomes one problem+json answer (problems.py)."""

from __future__ import annotations

from lake.errors import MulleError


class OverloadedError(MulleError):
    """More requests than `max_in_flight`."""

    code = "overloaded"
    status = 503


class DeadlineError(MulleError):
    """The request did not end within `request_deadline_s`."""

    code = "deadline_exceeded"
    status = 504


class NoBackendError(MulleError):
    """No LLM server is configured."""

    code = "llm_not_configured"
    status = 503
