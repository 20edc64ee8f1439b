"""API keys: the store that a worker asks, and the command that makes and revokes them.

    python -m gateway.keys add --name shop --scope search [--scope admin] [--days 90] [--rate 600/minute]
    python -m gateway.keys list
    python -m gateway.keys revoke ID

The key is printed once, on standard output. A running gateway takes a change up within MULLE_KEYS_POLL_S in every
worker. Invariant: a file that can't be trusted opens nothing: at the start it is an error, later the last good keys
stay in force and readiness says why.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hmac
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from limits import RateLimitItem

from gateway.access_settings import AccessSettings, is_loopback, rate
from gateway.key_file import TOKEN, KeyRecord, change_keys, new_token, read_keys, token_sha256
from lake.errors import InputError, MulleError, SetupError
from lake.settings import LakeSettings
from serving.cli import exit_code

log = structlog.get_logger("gateway.keys")
_NOBODY = "0" * 64
_Stamp = tuple[int, int, int, int]


def keys_path(access: AccessSettings, lake: LakeSettings) -> Path:
    """Where the keys are."""
    return access.keys_file if access.keys_file is not None else lake.data_dir / "keys.json"


def check_exposure(host: str, usable_keys: int) -> None:
    """Raises `SetupError` where the gateway would be open to a network, by listening on `host`, without a key."""
    if not is_loopback(host) and usable_keys == 0:
        raise SetupError(
            f"MULLE_HOST={host} is open to a network and there is no API key: make one with "
            "`python -m gateway.keys add --name NAME --scope search`, or listen on 127.0.0.1."
        )


class KeyStore:
    """The keys of one worker. Look-ups are safe at any time on the event loop."""

    def __init__(self, path: Path, poll_s: float = 0.5) -> None:
        """Reads the file. Raises `SetupError` where it can't be trusted."""
        self._path = path
        self._poll_s = poll_s
        self._watcher: asyncio.Task[None] | None = None
        self._stamp = _stamp(path)
        self._seen = self._stamp is not None
        self.reason = ""  # why the file on disk is not in force
        self._take(read_keys(path))

    def _take(self, records: tuple[KeyRecord, ...]) -> None:
        self._records = {record.id: record for record in records}
        self._rates: dict[str, RateLimitItem | None] = {
            record.id: rate(record.rate_limit) for record in records if record.rate_limit
        }

    def find(self, token: str) -> KeyRecord | None:
        """The usable key with this text. An unknown id costs the same work as a wrong secret."""
        parts = TOKEN.match(token)
        record = self._records.get(parts[1]) if parts else None
        same = hmac.compare_digest(token_sha256(token), record.sha256 if record is not None else _NOBODY)
        return record if record is not None and same and record.usable(datetime.now(UTC)) else None

    def rate_of(self, key_id: str) -> RateLimitItem | None:
        """The key's own rate; None where it has none."""
        return self._rates.get(key_id)

    @property
    def usable(self) -> int:
        """Keys that open something now."""
        now = datetime.now(UTC)
        return sum(record.usable(now) for record in self._records.values())

    async def start(self) -> None:
        """Watch the file until `aclose`."""
        self._watcher = asyncio.create_task(self._watch(), name="keys-watch")

    async def aclose(self) -> None:
        """Stop watching."""
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                self.refresh()
            except Exception as error:  # the watcher outlives whatever a file can hold
                log.exception("keys_watch_failed")
                self.reason = f"the file of keys could not be read ({type(error).__name__}); the last good keys count"

    def refresh(self) -> None:
        """Look at the file now. A file that can't be trusted, or is gone, leaves the keys as they are."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            if stamp is None and self._seen:
                raise SetupError(f"The file of keys {self._path} is gone: put it back, or restart without it.")
            self._take(read_keys(self._path))
        except MulleError as error:
            self.reason = f"{error} Until then the last good keys count."
            log.error("keys_refused", reason=str(error))
            return
        self._seen = True
        self.reason = ""
        log.info("keys_in_force", usable=self.usable)


def _stamp(path: Path) -> _Stamp | None:
    """What changes when the file does; the mode is part of it, so that a chmod heals without a new file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode


def add_key(path: Path, name: str, scopes: frozenset[str], days: float | None = None, rate_limit: str = "") -> str:
    """Add a key and return it: the one time that it can be seen. Raises `InputError` or `SetupError`."""
    key_id, token = new_token()
    now = datetime.now(UTC)
    try:
        record = KeyRecord.model_validate(
            {
                "id": key_id, "name": name, "scopes": scopes, "sha256": token_sha256(token), "created": now,
                "expires": now + timedelta(days=days) if days is not None else None,
                "rate_limit": rate_limit or None,
            }
        )  # fmt: skip
    except (ValueError, OverflowError) as error:
        raise InputError(
            "A key has a name of 1 to 100 characters, scopes out of search, review and admin, a rate such as "
            "600/minute or none, and days that a calendar holds."
        ) from error
    change_keys(path, lambda keys: (*keys, record))
    return token


def revoke_key(path: Path, key_id: str) -> KeyRecord:
    """Close a key for good; its record stays. Safe to repeat. Raises `InputError` where there is no such key."""
    done: list[KeyRecord] = []

    def change(keys: tuple[KeyRecord, ...]) -> list[KeyRecord]:
        found = {key.id: key for key in keys}
        if key_id not in found:
            raise InputError(f"There is no key {key_id}: python -m gateway.keys list shows the ids.")
        key = found[key_id]
        done.append(key if key.revoked else key.model_copy(update={"revoked": datetime.now(UTC)}))
        return list({**found, key_id: done[0]}.values())

    change_keys(path, change)
    return done[0]


def _line(key: KeyRecord, now: datetime) -> str:
    state = "revoked" if key.revoked else ("in force" if key.usable(now) else "expired")
    until = f"{key.expires:%Y-%m-%d}" if key.expires else "-"
    scopes = ",".join(sorted(key.scopes))
    return (
        f"{key.id}  {state:8}  {scopes:19}  {key.created:%Y-%m-%d}  {until:10}  {key.rate_limit or '-':12}  {key.name}"
    )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway.keys", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="make a key and print it once")
    add.add_argument("--name", required=True, help="who uses it")
    add.add_argument("--scope", action="append", choices=("search", "review", "admin"), required=True)
    add.add_argument("--days", type=float, help="it expires after so many days")
    add.add_argument("--rate", default="", help="a rate of its own, such as 600/minute")
    commands.add_parser("list", help="show all keys, without their secrets")
    revoke = commands.add_parser("revoke", help="close a key for good")
    revoke.add_argument("id")
    return parser


def main() -> int:
    args = make_parser().parse_args()
    path = keys_path(AccessSettings(), LakeSettings())
    if args.command == "add":
        print(add_key(path, args.name, frozenset(args.scope), args.days, args.rate))
        print("Keep it now: it can't be shown again.", file=sys.stderr)
    elif args.command == "revoke":
        key = revoke_key(path, args.id)
        print(f"revoked {key.id} ({key.name})")
    else:
        now = datetime.now(UTC)
        print("id        state     scopes               created     expires     rate          name")
        for key in read_keys(path):
            print(_line(key, now))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
