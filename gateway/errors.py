"""Errors that only the gateway raises. Each becomes one problem+json answer (problems.py)."""

from __future__ import annotations

from collections.abc import Sequence

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


class AccessError(MulleError):
    """A request was refused before any handler ran. `headers` go out with the answer."""

    code = "refused"
    status = 400

    def __init__(self, message: str, headers: Sequence[tuple[bytes, bytes]] = (), **detail: object) -> None:
        super().__init__(message, **detail)
        self.headers = tuple(headers)


class UnauthenticatedError(AccessError):
    """No key, or a wrong, expired or revoked one."""

    code = "unauthenticated"
    status = 401


class ScopeError(AccessError):
    """The key does not open this."""

    code = "scope_missing"
    status = 403


class RateLimitError(AccessError):
    """Too many requests of one key or address."""

    code = "rate_limited"
    status = 429


class HeaderError(AccessError):
    """Header fields contradict each other."""

    code = "bad_headers"
    status = 400


class BodyTooLargeError(AccessError):
    """Larger than `max_body_bytes`."""

    code = "body_too_large"
    status = 413


class BodyTimeoutError(AccessError):
    """The body was not whole within `body_timeout_s`."""

    code = "body_timeout"
    status = 408


class MediaTypeError(AccessError):
    """The body is not declared as JSON in UTF-8."""

    code = "unsupported_media_type"
    status = 415


class JSONBodyError(AccessError):
    """The body is not the JSON that two readers would read alike (RFC 8259, section 4; RFC 7493)."""

    code = "invalid_json"
    status = 400


class UnknownRequestError(MulleError):
    """No request has this id, or it is another key's."""

    code = "unknown_request"
    status = 404


class UnsupportedError(MulleError):
    """An option of the OpenAI API that this service has no use for."""

    code = "unsupported_parameter"
    status = 400


class UnknownModelError(MulleError):
    """A model name that is not listed by /v1/models."""

    code = "model_not_found"
    status = 404
