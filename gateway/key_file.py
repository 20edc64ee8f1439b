"""The file of API keys: {"version": 1, "keys": [...]}, owner-only, replaced in one step.

Reads and writes MULLE_KEYS_FILE (default data/keys.json). A key is `mulle_<id>_<secret>`; the file holds the sha256 of
it and never the key. Invariant: a reader sees the old or the new file, whole; two writers take turns by a lock file.

Why sha256 and not a slow hash: bcrypt and the like make guessing *words that people choose* dear. A secret of 256
random bits can't be guessed at any speed, and a slow hash on each request would hand a flood of wrong keys our CPU.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
from base64 import b32encode
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from gateway.access_settings import rate
from gateway.caller import Scope
from lake.errors import SetupError
from lake.files import write_bytes_atomic

TOKEN = re.compile(r"^mulle_([a-z2-7]{8})_([a-z2-7]{52})$")  # 40 random bits, 256 random bits


class KeyRecord(BaseModel):
    """One key as it is on disk. Times are UTC; a revoked key stays, so that its id in the journal has a name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[a-z2-7]{8}$")
    name: str = Field(min_length=1, max_length=100)
    scopes: frozenset[Scope] = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
    rate_limit: str | None = None  # such as 600/minute; None: MULLE_RATE_LIMIT_KEY

    @field_validator("rate_limit")
    @classmethod
    def _rate(cls, value: str | None) -> str | None:
        rate(value or "")
        return value

    def usable(self, now: datetime) -> bool:
        """Whether the key opens anything at this time."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    keys: list[KeyRecord]


def token_sha256(token: str) -> str:
    """Hex sha256 of a whole key, so that a secret counts with its own id alone."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_token() -> tuple[str, str]:
    """(id, key) of a new key, from the system's random source."""
    key_id = b32encode(secrets.token_bytes(5)).decode().lower()
    secret = b32encode(secrets.token_bytes(32)).decode().lower().rstrip("=")
    return key_id, f"mulle_{key_id}_{secret}"


def read_keys(path: Path) -> tuple[KeyRecord, ...]:
    """Every key, revoked ones too; none where there is no file. Raises `SetupError` where the file can't be trusted:
    damaged, two keys with one id, or writable for others.
    """
    advice = "Put back a good copy, or move it away and add keys again with: python -m gateway.keys add"
    try:
        with path.open("rb") as handle:
            mode = os.fstat(handle.fileno()).st_mode
            data = handle.read()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise SetupError(f"The file of keys {path} can't be read ({error.strerror}). {advice}") from error
    if mode & 0o022:
        raise SetupError(f"Others may write the file of keys {path}: look through it, then chmod 600 it.")
    try:
        keys = _File.model_validate(orjson.loads(data)).keys
    except (orjson.JSONDecodeError, ValidationError) as error:
        what = f"{error.errors()[0]['loc']}" if isinstance(error, ValidationError) else "not JSON"
        raise SetupError(f"The file of keys {path} is damaged ({what}). {advice}") from error
    if len({key.id for key in keys}) != len(keys):
        raise SetupError(f"The file of keys {path} has one id twice. {advice}")
    return tuple(keys)


def change_keys(path: Path, change: Callable[[tuple[KeyRecord, ...]], Iterable[KeyRecord]]) -> None:
    """Replace the keys by `change(keys)`, while nobody else does. Raises `SetupError`; nothing is changed then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _write(path, change(read_keys(path)))
    finally:
        os.close(lock)


def _write(path: Path, keys: Iterable[KeyRecord]) -> None:
    rows = [{**key.model_dump(mode="json"), "scopes": sorted(key.scopes)} for key in keys]
    write_bytes_atomic(path, orjson.dumps({"version": 1, "keys": rows}, option=orjson.OPT_INDENT_2) + b"\n", 0o600)
