"""Which LLM server answers: profiles of the servers that speak the OpenAI protocol, and what may be asked of
one.

A backend is an immutable value made from `LLM_API_BASE`, `LLM_MODEL_NAME`, `LLM_API_KEY` (other names:
`OPENAI_*`), `LLM_PROFILE`, `LLM_ADAPTER` and `LLM_GENERATION`; a second one, asked where the first fails, from
`LLM_FALLBACK_*`. Invariant: no backend exists whose address is
not plain http(s) or is link-local (cloud metadata services live there); the key never appears in `repr` or
`public()`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from lake.errors import SetupError


@dataclass(frozen=True, slots=True)
class Profile:
    """What differs between servers of the same protocol."""

    name: str
    api_base: str  # where it listens by default
    probe_timeout_s: float  # a first completion may load the model (JIT)
    to_load: str  # how a model gets into it; {model} is its name
    any_name: bool = False  # answers to a name that it does not have, with the model that it has


# LM Studio and Ollama list what they could load, and load it at the first request (JIT): only a completion proves.
PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("vllm", "http://127.0.0.1:8101/v1", 60.0, "load the adapter with `python -m flows.promote`"),
        Profile("lmstudio", "http://127.0.0.1:1234/v1", 180.0, "run `lms load KEY --identifier {model}`", True),
        Profile("llamacpp", "http://127.0.0.1:8102/v1", 60.0, "start it with `--alias {model}`", True),
        Profile("ollama", "http://127.0.0.1:11434/v1", 180.0, "run `ollama create {model} -f Modelfile`, or pull it"),
        Profile("openai", "https://api.openai.com/v1", 30.0, "load {model} there"),
    )
}
_BY_PORT = {8101: "vllm", 8000: "vllm", 1234: "lmstudio", 11434: "ollama", 8080: "llamacpp", 8102: "llamacpp"}
# What only this server answers, asked at the root beside /v1; the first that fits decides.
_MARKS: tuple[tuple[str, str, str], ...] = (
    ("lmstudio", "/api/v0/models", "data"),
    ("ollama", "/api/version", "version"),
    ("llamacpp", "/props", "default_generation_settings"),
    ("vllm", "/version", "version"),
)
CHAMPION = "champion"  # as a model name: whatever adapter the registry has in service
_FALLBACK = "LLM_FALLBACK_"
_METADATA_NAMES = {"metadata.google.internal", "metadata", "instance-data"}


@dataclass(frozen=True, slots=True)
class Backend:
    """One LLM server and the model asked of it."""

    profile: str
    api_base: str  # with /v1, without a slash at the end
    model: str
    api_key: str = field(default="", repr=False)
    generation: int = 0  # counts up with every switch
    adapter: str = ""  # registry id of the adapter that the model carries, where it does
    follows_champion: bool = False  # `model` changes with the registry's pointer; CHAMPION until it was looked up

    def how_to_load(self, model: str) -> str:
        """What to do where this server does not have `model`."""
        return PROFILES[self.profile].to_load.format(model=model)

    def public(self) -> dict[str, Any]:
        """What may be shown: everything but the key and the address's user part (there is none)."""
        return {
            "profile": self.profile,
            "api_base": self.api_base,
            "model": self.model,
            "adapter": self.adapter or None,
            "generation": self.generation,
            "follows_champion": self.follows_champion,
        }


def check_api_base(url: str) -> str:
    """`url` without a slash at its end. Raises `SetupError` for anything but plain http(s) to a permitted
    host.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
        (parts.hostname or "").encode("idna")  # UnicodeError is a ValueError
    except ValueError as error:
        raise SetupError(f"LLM_API_BASE={url!r} is not an address ({error}).") from error
    host = (parts.hostname or "").rstrip(".").lower()
    if parts.scheme not in ("http", "https") or not host:
        raise SetupError(f"LLM_API_BASE={url!r} must start with http:// or https:// and name a host.")
    if parts.username is not None or parts.password is not None:
        raise SetupError("LLM_API_BASE must not hold a user or password: put the key into LLM_API_KEY.")
    if any(char.isspace() or not char.isprintable() for char in url.strip()):
        raise SetupError(f"LLM_API_BASE={url!r} holds a space or a control character.")
    if parts.query or parts.fragment:
        raise SetupError(f"LLM_API_BASE={url!r} must end with its path (usually /v1), without ? or #.")
    if port == 0:
        raise SetupError(f"LLM_API_BASE={url!r} has port 0.")
    if host in _METADATA_NAMES or is_forbidden(host):
        raise SetupError(f"LLM_API_BASE={url!r} is a link-local, multicast or unspecified address: not permitted.")
    return url.strip().rstrip("/")


def is_forbidden(host: str) -> bool:
    """Whether `host` is a literal address that must not be called (link-local: cloud metadata; multicast;
    unspecified); also in its odd spellings (0xa9fea9fe, 2852039166).
    """
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        try:  # inet_aton reads what C libraries read: decimal, octal and hexadecimal forms
            address = ipaddress.ip_address(socket.inet_aton(host))
        except OSError:
            return False
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    return address.is_link_local or address.is_multicast or address.is_unspecified


def check_resolved(backend: Backend) -> None:
    """Refuse a host name that resolves to a forbidden address. A name that does not resolve now is let
    through: the call itself will fail and say so. Blocks for the look-up.
    """
    host = urlsplit(backend.api_base).hostname or ""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return
    for address in found:
        if is_forbidden(address):
            raise SetupError(f"LLM_API_BASE names {host}, which is {address}: not permitted.", host=host)


def following_champion(backend: Backend) -> Backend:
    """The same server, asked for whatever adapter the registry has in service."""
    return replace(backend, model=CHAMPION, adapter="", follows_champion=True)


def guess_profile(api_base: str) -> str:
    """A profile by the address alone; `openai` (the plain protocol) where nothing tells."""
    parts = urlsplit(api_base)
    return _BY_PORT.get(parts.port or 0, "openai")


def backend_from_env(values: Mapping[str, str]) -> Backend:
    """The backend that `values` describe. Raises `SetupError`, whose message names the setting to mend."""

    def first(*names: str) -> str:
        return next((values[name].strip() for name in names if values.get(name, "").strip()), "")

    base = first("LLM_API_BASE", "OPENAI_API_BASE", "OPENAI_BASE_URL")
    if not base:
        raise SetupError("LLM_API_BASE is not set: name the LLM server, for example http://127.0.0.1:1234/v1.")
    model = first("LLM_MODEL_NAME", "OPENAI_MODEL")
    if not model:
        raise SetupError("LLM_MODEL_NAME is not set: name the model that the server at LLM_API_BASE serves.")
    key = first("LLM_API_KEY", "OPENAI_API_KEY")
    if any(not ("\x21" <= char <= "\x7e") for char in key):
        raise SetupError("LLM_API_KEY holds a space or a character that can't stand in an HTTP header.")
    base = check_api_base(base)
    profile = first("LLM_PROFILE").lower() or guess_profile(base)
    if profile not in PROFILES:
        raise SetupError(f"LLM_PROFILE={profile!r} is unknown: choose one of {', '.join(PROFILES)}.")
    generation = first("LLM_GENERATION") or "0"
    if not (generation.isascii() and generation.isdigit()):
        raise SetupError(f"LLM_GENERATION={generation!r} is not a number: let `python -m serving.switch` write it.")
    if model == CHAMPION:  # the adapter is the champion then, whatever LLM_ADAPTER says
        return Backend(profile, base, model, key, int(generation), follows_champion=True)
    return Backend(profile, base, model, key, int(generation), first("LLM_ADAPTER"))


def fallback_from_env(values: Mapping[str, str]) -> Backend | None:
    """The second backend that `values` describe; None where LLM_FALLBACK_API_BASE is not set. Raises `SetupError`."""
    given = {"LLM_" + name.removeprefix(_FALLBACK): text for name, text in values.items() if name.startswith(_FALLBACK)}
    if not given.get("LLM_API_BASE", "").strip():
        return None
    try:
        return backend_from_env({**given, "LLM_GENERATION": values.get("LLM_GENERATION", "")})
    except SetupError as error:
        raise SetupError(str(error).replace("LLM_", _FALLBACK), **error.detail) from error


def backend_to_env(backend: Backend) -> dict[str, str]:
    """The env file's content for `backend`; `backend_from_env` gives it back."""
    values = {
        "LLM_API_BASE": backend.api_base,
        "LLM_MODEL_NAME": CHAMPION if backend.follows_champion else backend.model,
        "LLM_PROFILE": backend.profile,
        "LLM_GENERATION": str(backend.generation),
    }
    if backend.api_key:
        values["LLM_API_KEY"] = backend.api_key
    if backend.adapter and not backend.follows_champion:
        values["LLM_ADAPTER"] = backend.adapter
    return values


async def detect_profile(api_base: str, timeout_s: float = 1.0, api_key: str = "") -> str | None:
    """Which server listens at `api_base`, by what only it answers; None where none of them does. Safe to
    retry. llama.cpp tells it to holders of its key only.
    """
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    root = check_api_base(api_base).removesuffix("/v1")
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout_s, headers=headers) as client:
        for name, path, mark in _MARKS:
            try:
                async with client.stream("GET", root + path) as response:
                    body = await _first_bytes(response, 1 << 20)
            except (httpx.HTTPError, httpx.InvalidURL):
                continue
            if response.status_code == 200 and _has_key(body, mark):
                return name
    return None


async def _first_bytes(response: httpx.Response, limit: int) -> bytes:
    body = b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > limit:
            break
    return body[:limit]


def _has_key(body: bytes, key: str) -> bool:
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(parsed, dict) and key in parsed
