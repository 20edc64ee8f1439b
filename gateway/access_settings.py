"""Settings of who may call the gateway, how often, and what a connection may do. Read once, then passed down."""

from __future__ import annotations

import functools
import ipaddress
from pathlib import Path
from typing import get_args

from limits import RateLimitItem, parse
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.caller import Scope

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
SCOPES: frozenset[Scope] = frozenset(get_args(Scope))


def listed(text: str) -> tuple[str, ...]:
    """The entries of a list that is written with commas."""
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def rate(text: str) -> RateLimitItem | None:
    """A rate such as `600/minute`, as the library `limits` writes it; None for an empty text. Raises `ValueError`."""
    return parse(text) if text.strip() else None


@functools.lru_cache(maxsize=4096)
def is_loopback(host: str) -> bool:
    """Whether a name or address (IPv6 with or without brackets) is this machine's own."""
    name = host.strip("[]").lower()
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


class AccessSettings(BaseSettings):
    """Environment MULLE_*. Rates are `<number>/<second|minute|hour|day>` for the whole gateway; empty: no limit."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    keys_file: Path | None = Field(default=None, description="File of API keys; unset: keys.json in the data folder.")
    keys_poll_s: float = Field(
        default=0.5, gt=0, le=60, description="Time between two looks at the file of keys, seconds."
    )
    loopback_scopes: str = Field(
        default="search,review,admin",
        description="What a caller on this machine may do without a key (search,review,admin); empty: nothing.",
    )
    trusted_proxies: str = Field(
        default="",
        description="Networks whose X-Forwarded-For names the caller for the rate limits, e.g. 10.0.0.0/8.",
    )
    cors_origins: str = Field(
        default="", description="Origins whose pages may call the gateway, e.g. https://a.example; empty: none."
    )

    rate_limit_key: str = Field(default="600/minute", description="Requests of one API key, unless it has its own.")
    rate_limit_address: str = Field(
        default="1200/minute", description="Requests of one address; callers on this machine are exempt."
    )
    rate_limit_bad_key: str = Field(
        default="30/minute", description="Wrong keys from one address before it is told to wait (429)."
    )

    header_timeout_s: float = Field(
        default=10.0, gt=0, le=300, description="Longest time that the head of a request may take, seconds."
    )
    keep_alive_timeout_s: float = Field(
        default=5.0, gt=0, le=3600, description="An idle connection is closed after this time, seconds."
    )
    write_timeout_s: float = Field(
        default=30.0, gt=0, le=3600, description="A client that reads nothing for this time is cut off, seconds."
    )
    max_head_bytes: int = Field(default=16_384, ge=1024, description="Largest head of a request (headers), bytes.")
    max_url_bytes: int = Field(default=4096, ge=256, description="Longest request target, bytes.")
    max_connections: int = Field(
        default=1024, ge=1, description="Connections of one process; more are answered 503 and closed."
    )

    @field_validator("loopback_scopes")
    @classmethod
    def _known_scopes(cls, value: str) -> str:
        unknown = set(listed(value)) - SCOPES
        if unknown:
            raise ValueError(f"unknown scope {', '.join(sorted(unknown))}: use search, review, admin")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        for entry in listed(value):
            ipaddress.ip_network(entry)
        return value

    @field_validator("cors_origins")
    @classmethod
    def _whole_origins(cls, value: str) -> str:
        for entry in listed(value):
            scheme, _, rest = entry.partition("://")
            if scheme not in ("http", "https") or not rest or any(char in rest for char in "/*?#@ "):
                raise ValueError(f"{entry} is no origin: list scheme://host[:port], no wildcard")
        return value

    @field_validator("rate_limit_key", "rate_limit_address", "rate_limit_bad_key")
    @classmethod
    def _rates(cls, value: str) -> str:
        rate(value)
        return value

    @functools.cached_property
    def scopes_on_loopback(self) -> frozenset[Scope]:
        return frozenset(scope for scope in SCOPES if scope in listed(self.loopback_scopes))

    @functools.cached_property
    def proxies(self) -> tuple[Network, ...]:
        return tuple(ipaddress.ip_network(entry) for entry in listed(self.trusted_proxies))

    @functools.cached_property
    def origins(self) -> tuple[str, ...]:
        return listed(self.cors_origins)
