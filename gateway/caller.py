"""Who asks: what authentication found out about one request, for routes, limits and the journal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["search", "review", "admin"]


@dataclass(frozen=True, slots=True)
class Caller:
    """`key_id` is the public part of an API key, None where none was given; `denied` says why no key was not enough."""

    key_id: str | None
    scopes: frozenset[Scope]
    address: str  # of the peer, as limits count it
    denied: str = ""

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes
