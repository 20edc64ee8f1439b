"""Who calls, and whether a route is open to them.

`AccessControl.enter` runs once a request, in the layer that reads the body and before it is read (door.py): it finds
out who calls and counts the request against the rate limits, whatever the path is. `require_scope` is the decision,
a dependency of the router, so no spelling of path or host leads around it. Invariant: a route with a dependency is
closed where `enter` did not run.

Without a key a caller on this machine has MULLE_LOOPBACK_SCOPES, but not through a proxy, not under a name that is
not this machine's (DNS rebinding), and not for another site's page that wants to change something. A wrong key is
refused everywhere.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import re

from fastapi import Request
from fastapi.openapi.models import HTTPBearer as BearerModel
from fastapi.security.base import SecurityBase
from limits import RateLimitItem
from starlette.types import Scope as ASGIScope

from gateway.access_settings import AccessSettings, is_loopback, rate
from gateway.caller import Caller, Scope
from gateway.errors import HeaderError, RateLimitError, ScopeError, UnauthenticatedError
from gateway.keys import KeyStore
from gateway.rate_limits import RateLimiter, Verdict, answer_headers

# A reverse proxy is set up to add one of these. nginx before 1.29 adds none by itself, but speaks HTTP/1.0.
_PROXY_HEADERS = frozenset(
    {
        b"forwarded", b"via", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto",
        b"x-forwarded-port", b"x-forwarded-server", b"x-client-ip", b"cf-connecting-ip", b"true-client-ip",
    }
)  # fmt: skip
_READ = _PROXY_HEADERS | {b"authorization", b"x-api-key", b"host", b"origin", b"sec-fetch-site"}
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# What OpenAI clients are given where no key is needed, since they refuse an empty one. Counts as no key at all.
_PLACEHOLDERS = frozenset({"", "none", "empty", "no-key", "not-needed"})
_CHALLENGE = b'Bearer realm="mulle"'
# RFC 3986 authority without user info: a name, an IPv4 address or one in brackets, and a port.
HOST = re.compile(rb"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?$")
_Headers = dict[bytes, list[bytes]]


@functools.lru_cache(maxsize=4096)
def _bucket(address: str) -> str:
    """What the limits count: an IPv4 address, or the /64 of an IPv6 one, which is what one customer is given."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


class AccessControl:
    """For one worker."""

    def __init__(self, settings: AccessSettings, keys: KeyStore, limiter: RateLimiter) -> None:
        self._keys = keys
        self._limiter = limiter
        self._loopback_scopes = settings.scopes_on_loopback
        self._origins = frozenset(origin.encode() for origin in settings.origins)
        self._proxies = settings.proxies
        self._per_key = rate(settings.rate_limit_key)
        self._per_address = rate(settings.rate_limit_address)
        self._bad_keys = rate(settings.rate_limit_bad_key)

    def enter(self, scope: ASGIScope) -> tuple[Caller, list[tuple[bytes, bytes]]]:
        """(who calls, headers for the answer). Raises `UnauthenticatedError`, `RateLimitError` or `HeaderError`."""
        headers: _Headers = {}
        for name, value in scope["headers"]:
            if name in _READ:
                headers.setdefault(name, []).append(value)
        peer = scope["client"][0] if scope.get("client") else ""
        address = _bucket(self._address(peer, headers) if self._proxies else peer)
        denied = self._denied(scope, peer, headers)
        verdict: tuple[str, Verdict] | None = None
        if denied and self._per_address is not None:
            verdict = self._count("address", address, self._per_address)
        token = _token(headers)
        if token is None:
            answer = answer_headers(*verdict) if verdict is not None else []
            return Caller(None, frozenset() if denied else self._loopback_scopes, address, denied), answer
        key = self._keys.find(token)
        if key is None:
            if self._bad_keys is not None:
                self._count("bad-key", address, self._bad_keys)
            raise UnauthenticatedError(
                "The API key is wrong, expired or revoked: send a good one, or none from this machine.",
                [(b"www-authenticate", _CHALLENGE + b', error="invalid_token"')],
            )
        item = self._keys.rate_of(key.id) or self._per_key
        if item is not None:
            verdict = self._count("key", key.id, item)
        return Caller(key.id, key.scopes, address), answer_headers(*verdict) if verdict is not None else []

    def _count(self, kind: str, who: str, item: RateLimitItem) -> tuple[str, Verdict]:
        verdict = self._limiter.hit(kind, who, item)
        if not verdict.allowed:
            raise RateLimitError(
                f"Too many requests: try again in {max(1, math.ceil(verdict.wait_s))} s.", answer_headers(kind, verdict)
            )
        return kind, verdict

    def _address(self, peer: str, headers: _Headers) -> str:
        """The caller behind trusted proxies: the last entry of X-Forwarded-For that none of them wrote about itself."""
        hops = [hop.strip() for hop in b",".join(headers.get(b"x-forwarded-for", [])).decode("latin-1").split(",")]
        for hop in [peer, *reversed(hops)]:
            try:
                found = ipaddress.ip_address(hop.strip("[]"))
            except ValueError:
                return peer
            if not any(found in network for network in self._proxies):
                return str(found)
        return peer

    def _denied(self, scope: ASGIScope, peer: str, headers: _Headers) -> str:
        """Why this request needs a key; empty where it does not."""
        if not is_loopback(peer):
            return "A key is needed from another machine."
        if scope.get("http_version") == "1.0" or not _PROXY_HEADERS.isdisjoint(headers):
            return "The request came through a proxy."
        hosts = headers.get(b"host", [])
        found = HOST.match(hosts[0]) if len(hosts) == 1 else None
        if found is None or not is_loopback(found[1].decode()):
            return "The Host header does not name this machine."
        if scope["method"] not in _SAFE_METHODS:
            origins = headers.get(b"origin", [])
            if origins:
                listed = all(origin in self._origins for origin in origins)
                own = all(origin.partition(b"://")[2] == hosts[0] for origin in origins)
                if not listed and not own:
                    return "The request was made by another site's page."
            elif any(site not in (b"same-origin", b"none") for site in headers.get(b"sec-fetch-site", [])):
                return "The request was made by another site's page."
        return ""


def _token(headers: _Headers) -> str | None:
    """The key that was sent, by either header; None where there is none."""
    found: set[str] = {value.decode("latin-1").strip() for value in headers.get(b"x-api-key", [])}
    for value in headers.get(b"authorization", []):
        scheme, _, rest = value.decode("latin-1").strip().partition(" ")
        # Another scheme, or none, is refused like a wrong key.
        found.add(rest.strip() if scheme.lower() == "bearer" else "no bearer")
    found = {token for token in found if token.lower() not in _PLACEHOLDERS}
    if len(found) > 1:
        raise HeaderError("Authorization and X-API-Key hold different keys: send one.")
    return next(iter(found), None)


class RequireScope(SecurityBase):
    """A dependency: 401 without a key where one is needed, 403 where the key lacks `scope`. Returns the `Caller`."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.scheme_name = "API key"
        self.model = BearerModel(
            description="`Authorization: Bearer mulle_...`, or the same key as `X-API-Key`. On loopback none is needed."
        )

    async def __call__(self, request: Request) -> Caller:
        caller: Caller | None = getattr(request.state, "caller", None)
        if caller is None or (caller.key_id is None and self.scope not in caller.scopes):
            why = f"{caller.denied} " if caller is not None and caller.denied else ""
            raise UnauthenticatedError(
                f"{why}Send an API key with the scope {self.scope}: Authorization: Bearer mulle_...",
                [(b"www-authenticate", _CHALLENGE)],
            )
        if self.scope not in caller.scopes:
            raise ScopeError(
                f"This key does not have the scope {self.scope}: use one that has it.",
                [
                    (
                        b"www-authenticate",
                        f'Bearer realm="mulle", error="insufficient_scope", scope="{self.scope}"'.encode(),
                    )
                ],
            )
        return caller


@functools.cache
def require_scope(scope: Scope) -> RequireScope:
    """For `APIRouter(dependencies=[Depends(require_scope("search"))])`."""
    return RequireScope(scope)
