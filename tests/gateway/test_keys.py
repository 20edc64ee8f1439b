"""API keys: only a hash on disk, changes are taken up while running, a file that can't be trusted opens nothing."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from gateway.key_file import change_keys, read_keys
from gateway.keys import KeyStore, add_key, check_exposure, revoke_key
from lake.errors import InputError, SetupError
from tests.gateway.kit import ROOT

SEARCH = frozenset({"search"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_only_a_hash_is_on_disk_and_the_file_is_private(path: Path) -> None:
    token = add_key(path, "shop", frozenset({"search", "admin"}), days=1, rate_limit="5/minute")
    data = path.read_text()
    _, key_id, secret = token.split("_")
    assert secret not in data and token not in data and key_id in data
    assert path.stat().st_mode & 0o777 == 0o600
    store = KeyStore(path)
    found = store.find(token)
    assert found is not None and found.name == "shop" and found.scopes == {"search", "admin"}
    own_rate = store.rate_of(key_id)
    assert own_rate is not None and own_rate.amount == 5 and store.rate_of("aaaaaaaa") is None


def test_wrong_keys_find_nothing(path: Path) -> None:
    token, other = add_key(path, "a", SEARCH), add_key(path, "b", SEARCH)
    store = KeyStore(path)
    key_id, secret = token.split("_")[1:]
    last = "a" if token[-1] != "a" else "b"
    for wrong in (
        "", "mulle_", token[:-1], token[:-1] + last, token + "a", token.upper(), f" {token}", f"{token}\n",
        f"mulle_{other.split('_')[1]}_{secret}", f"mulle_aaaaaaaa_{secret}", secret, key_id, "mulle_é_" + secret,
    ):  # fmt: skip
        assert store.find(wrong) is None, wrong
    assert store.find(token) is not None and store.find(other) is not None


def test_expired_and_revoked_keys_are_closed_and_stay_listed(path: Path) -> None:
    expired, revoked, good = (add_key(path, name, SEARCH) for name in ("expired", "revoked", "good"))
    past = datetime.now(UTC) - timedelta(seconds=1)
    change_keys(path, lambda keys: [k.model_copy(update={"expires": past}) if k.name == "expired" else k for k in keys])
    for _ in range(2):
        assert revoke_key(path, revoked.split("_")[1]).revoked is not None
    store = KeyStore(path)
    assert store.find(expired) is None and store.find(revoked) is None and store.find(good) is not None
    assert store.usable == 1 and {key.name for key in read_keys(path)} == {"expired", "revoked", "good"}
    with pytest.raises(InputError, match="no key"):
        revoke_key(path, "aaaaaaaa")


def test_writers_take_turns(path: Path) -> None:
    threads = [threading.Thread(target=add_key, args=(path, f"k{number}", SEARCH)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(path)} == {f"k{number}" for number in range(16)}


def test_a_running_store_takes_changes_up(path: Path) -> None:
    async def main() -> None:
        store = KeyStore(path, poll_s=0.01)
        await store.start()

        async def until(done: Callable[[], bool]) -> None:
            async with asyncio.timeout(10):
                while not done():
                    await asyncio.sleep(0.01)

        token = add_key(path, "a", SEARCH)
        await until(lambda: store.find(token) is not None)
        second = add_key(path, "b", SEARCH)
        await until(lambda: store.find(second) is not None)
        revoke_key(path, token.split("_")[1])
        await until(lambda: store.find(token) is None)
        assert store.find(second) is not None
        await store.aclose()

    asyncio.run(main())


def damaged(good: bytes) -> dict[str, bytes]:
    row = orjson.loads(good)["keys"][0]
    return {
        "empty": b"",
        "half": good[: len(good) // 2],
        "no JSON": b"\xff\x00",
        "a list": b"[]",
        "no version": orjson.dumps({"keys": [row]}),
        "other version": orjson.dumps({"version": 2, "keys": [row]}),
        "unknown scope": orjson.dumps({"version": 1, "keys": [{**row, "scopes": ["root"]}]}),
        "no scope": orjson.dumps({"version": 1, "keys": [{**row, "scopes": []}]}),
        "short hash": orjson.dumps({"version": 1, "keys": [{**row, "sha256": ""}]}),
        "unknown field": orjson.dumps({"version": 1, "keys": [{**row, "open": True}]}),
        "bad rate": orjson.dumps({"version": 1, "keys": [{**row, "rate_limit": "many"}]}),
        "an id twice": orjson.dumps({"version": 1, "keys": [row, row]}),
        "time without a zone": orjson.dumps({"version": 1, "keys": [{**row, "created": "2026-01-01T00:00:00"}]}),
    }


def test_a_damaged_file_is_an_error_at_the_start_and_changes_nothing_later(path: Path) -> None:
    token = add_key(path, "a", SEARCH)
    good = path.read_bytes()
    for name, data in damaged(good).items():
        store = KeyStore(path)
        path.write_bytes(data)
        with pytest.raises(SetupError) as caught:
            KeyStore(path)
        assert "\n" not in str(caught.value) and token not in str(caught.value), name
        with pytest.raises(SetupError):
            add_key(path, "b", SEARCH)
        assert path.read_bytes() == data, name  # a damaged file is not written over
        store.refresh()
        assert store.find(token) is not None and "last good keys" in store.reason, name
        path.write_bytes(good)
        os.utime(path, ns=(1, 1))
        store.refresh()
        assert store.find(token) is not None and store.reason == "", name


def test_a_file_that_is_gone_or_open_to_others(path: Path) -> None:
    token = add_key(path, "a", SEARCH)
    store = KeyStore(path)
    path.rename(path.with_name("away"))
    store.refresh()
    assert store.find(token) is not None and "is gone" in store.reason
    path.with_name("away").rename(path)
    store.refresh()
    assert store.reason == ""
    path.chmod(0o666)
    store.refresh()
    assert "chmod 600" in store.reason and store.find(token) is not None
    with pytest.raises(SetupError, match="chmod 600"):
        KeyStore(path)


def test_listening_to_a_network_needs_a_key() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "localhost", "::1", "::ffff:127.0.0.1"):
        check_exposure(host, 0)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
        check_exposure(host, 1)
        with pytest.raises(SetupError, match="python -m gateway"):
            check_exposure(host, 0)


def command(path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "MULLE_KEYS_FILE": str(path)}
    argv = [sys.executable, "-m", "gateway.keys", *args]
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)


def test_command_line(path: Path) -> None:
    made = command(path, "add", "--name", "shop", "--scope", "search", "--scope", "review", "--rate", "5/second")
    token = made.stdout.strip()
    assert made.returncode == 0 and KeyStore(path).find(token) is not None
    listed = command(path, "list").stdout
    assert "in force" in listed and "review,search" in listed and "shop" in listed
    assert token.split("_")[2] not in listed
    assert command(path, "revoke", token.split("_")[1]).returncode == 0
    assert KeyStore(path).find(token) is None and "revoked" in command(path, "list").stdout
    wrong = command(path, "add", "--name", "x", "--scope", "search", "--rate", "many")
    assert wrong.returncode == 65 and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1
    assert command(path, "revoke", "nobody").returncode == 65
