"""Who gets in: keys, loopback and what only looks like it, rates, CORS; through the whole application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from gateway.access_settings import AccessSettings
from gateway.auth import AccessControl
from gateway.caller import Caller
from gateway.errors import HeaderError, RateLimitError, UnauthenticatedError
from gateway.keys import KeyStore, add_key
from gateway.parts import Config, Parts
from gateway.rate_limits import RateLimiter
from tests.gateway.kit import run

ALL = frozenset({"search", "review", "admin"})
HOST = ("host", "localhost:8700")
QUESTION = {"question": "화상 회의"}
Headers = Sequence[tuple[str, str]]


class Door:
    """An access control of its own with one key for search and one for admin."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        path = folder / "keys.json"
        self.search = add_key(path, "search", frozenset({"search"}))
        self.admin = add_key(path, "admin", frozenset({"admin"}))
        self.slow = add_key(path, "slow", frozenset({"search"}), rate_limit="2/minute")
        self.control = AccessControl(AccessSettings(**settings), KeyStore(path), RateLimiter())

    def enter(
        self, headers: Headers = (HOST,), peer: str | None = "127.0.0.1", method: str = "POST", version: str = "1.1"
    ) -> Caller:
        return self.full(headers, peer, method, version)[0]

    def full(
        self, headers: Headers = (HOST,), peer: str | None = "127.0.0.1", method: str = "POST", version: str = "1.1"
    ) -> tuple[Caller, dict[bytes, bytes]]:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        client = (peer, 9) if peer is not None else None
        caller, answer = self.control.enter(
            {"type": "http", "method": method, "http_version": version, "client": client, "headers": raw}
        )
        return caller, dict(answer)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    return Door(tmp_path)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8700", "127.3.2.1", "[::1]:8700", "[::1]"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_a_caller_on_this_machine_needs_no_key(door: Door, host: str, peer: str) -> None:
    caller = door.enter([("host", host)], peer)
    assert caller.scopes == ALL and caller.key_id is None and caller.denied == ""


NOT_LOCAL: dict[str, tuple[Headers, str | None, str]] = {
    "other machine": ([HOST], "10.0.0.7", "1.1"),
    "unknown peer": ([HOST], None, "1.1"),
    "name of another (DNS rebinding)": ([("host", "evil.example")], "127.0.0.1", "1.1"),
    "name that begins like ours": ([("host", "localhost.evil.example")], "127.0.0.1", "1.1"),
    "address that begins like ours": ([("host", "127.0.0.1.evil.example")], "127.0.0.1", "1.1"),
    "user in the host": ([("host", "localhost@evil.example")], "127.0.0.1", "1.1"),
    "no host": ([], "127.0.0.1", "1.1"),
    "two hosts": ([HOST, ("host", "evil.example")], "127.0.0.1", "1.1"),
    "HTTP/1.0, as an old proxy speaks it": ([HOST], "127.0.0.1", "1.0"),
    "foreign origin": ([HOST, ("origin", "https://evil.example")], "127.0.0.1", "1.1"),
    "other port's origin": ([HOST, ("origin", "http://localhost:3000")], "127.0.0.1", "1.1"),
    "origin null": ([HOST, ("origin", "null")], "127.0.0.1", "1.1"),
    "one of two origins": (
        [HOST, ("origin", "http://localhost:8700"), ("origin", "https://evil.example")], "127.0.0.1", "1.1"
    ),
    "cross-site": ([HOST, ("sec-fetch-site", "cross-site")], "127.0.0.1", "1.1"),
    "same-site": ([HOST, ("sec-fetch-site", "same-site")], "127.0.0.1", "1.1"),
    **{
        name: ([HOST, (name, "127.0.0.1")], "127.0.0.1", "1.1")
        for name in ("forwarded", "via", "x-real-ip", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_LOCAL)
def test_what_only_looks_local_needs_a_key(door: Door, name: str) -> None:
    headers, peer, version = NOT_LOCAL[name]
    caller = door.enter(headers, peer, version=version)
    assert caller.scopes == frozenset() and caller.denied
    with_key = door.enter([*headers, ("authorization", f"Bearer {door.search}")], peer, version=version)
    assert with_key.scopes == {"search"} and with_key.key_id == door.search.split("_")[1]


def test_own_pages_and_plain_reads_stay_local(door: Door, tmp_path: Path) -> None:
    own = [HOST, ("origin", "http://localhost:8700"), ("sec-fetch-site", "same-origin")]
    assert door.enter(own).scopes == ALL
    assert door.enter([HOST, ("sec-fetch-site", "cross-site")], method="GET").scopes == ALL
    listed = Door(tmp_path / "listed", cors_origins="http://localhost:3000")
    assert listed.enter([HOST, ("origin", "http://localhost:3000"), ("sec-fetch-site", "same-site")]).scopes == ALL
    assert listed.enter([HOST, ("origin", "http://localhost:3001")]).scopes == frozenset()


@pytest.mark.parametrize(
    ("text", "scopes"), [("", set()), ("search", {"search"}), ("search, review", {"search", "review"})]
)
def test_scopes_of_loopback_are_a_setting(tmp_path: Path, text: str, scopes: set[str]) -> None:
    assert Door(tmp_path, loopback_scopes=text).enter().scopes == scopes


def test_keys_come_in_two_headers_and_a_wrong_one_never_passes(door: Door) -> None:
    good = f"Bearer {door.search}"
    for headers in (
        [("authorization", good)], [("authorization", f"bearer   {door.search} ")], [("x-api-key", door.search)],
        [("authorization", good), ("x-api-key", door.search)],
        [("authorization", "Bearer none"), ("x-api-key", door.search)],
    ):  # fmt: skip
        assert door.enter([HOST, *headers]).scopes == {"search"}
    for value in ("Bearer x", "Bearer mulle_", good[:-1], good + "a", "Basic dTpw", "Bearer \xff", door.search):
        with pytest.raises(UnauthenticatedError) as caught:
            door.enter([HOST, ("authorization", value)])
        assert dict(caught.value.headers)[b"www-authenticate"].startswith(b"Bearer ")
    with pytest.raises(UnauthenticatedError):
        door.enter([HOST, ("x-api-key", "wrong")])
    bearer, plain = "authorization", "x-api-key"
    for two in (
        [(bearer, good), (plain, "x")], [(bearer, good), (bearer, "Bearer x")], [(plain, door.search), (plain, "x")],
    ):  # fmt: skip
        with pytest.raises(HeaderError):
            door.enter([HOST, *two])
    for nothing in ("none", "EMPTY", "no-key", "not-needed", ""):  # what OpenAI clients are given for no key
        assert door.enter([HOST, ("authorization", f"Bearer {nothing}")]).scopes == ALL
        assert door.enter([HOST, ("authorization", f"Bearer {nothing}")], "10.0.0.7").scopes == frozenset()


def test_rates_by_key_address_and_wrong_key(tmp_path: Path) -> None:
    door = Door(tmp_path, rate_limit_key="4/minute", rate_limit_address="3/minute", rate_limit_bad_key="2/minute")
    for _ in range(20):
        assert door.full()[1] == {}  # this machine without a key: no limit
    key = [HOST, ("x-api-key", door.search)]
    _, answer = door.full(key)
    assert answer[b"ratelimit-policy"] == b'"key";q=4;w=60'
    for _ in range(3):
        door.enter(key)
    with pytest.raises(RateLimitError) as caught:
        door.enter(key)
    assert dict(caught.value.headers)[b"retry-after"] == b"15"
    for _ in range(2):
        door.enter([HOST, ("x-api-key", door.slow)])  # its own rate
    with pytest.raises(RateLimitError):
        door.enter([HOST, ("x-api-key", door.slow)])
    for _ in range(3):
        door.enter(peer="2001:db8::1")
    with pytest.raises(RateLimitError):
        door.enter(peer="2001:db8::ffff")  # the same /64
    door.enter(peer="2001:db8:0:1::1")
    bad = [HOST, ("x-api-key", "wrong")]
    for _ in range(2):
        with pytest.raises(UnauthenticatedError):
            door.enter(bad)
    with pytest.raises(RateLimitError):
        door.enter(bad)
    door.enter([HOST, ("x-api-key", door.admin)])  # a neighbour's wrong keys close nobody else's


def test_the_caller_behind_a_trusted_proxy_is_counted(tmp_path: Path) -> None:
    door = Door(tmp_path, trusted_proxies="127.0.0.0/8, 10.0.0.0/8")
    for sent, counted in (
        ("203.0.113.5", "203.0.113.5"),
        ("198.51.100.1, 203.0.113.5", "203.0.113.5"),  # the first entry is the caller's own claim
        ("203.0.113.5, 10.1.1.1", "203.0.113.5"),
        ("nonsense", "127.0.0.1"),
    ):
        assert door.enter([HOST, ("x-forwarded-for", sent)]).address == counted
    assert door.enter([HOST, ("x-forwarded-for", "203.0.113.5")], "192.0.2.9").address == "192.0.2.9"
    untrusting = Door(tmp_path / "other")
    assert untrusting.enter([HOST, ("x-forwarded-for", "203.0.113.5")], "192.0.2.9").address == "192.0.2.9"


@pytest.mark.parametrize(
    "wrong",
    [{"loopback_scopes": "root"}, {"trusted_proxies": "x"}, {"rate_limit_key": "many"}, {"cors_origins": "*"},
     {"cors_origins": "https://a.example/path"}, {"cors_origins": "a.example"}],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        AccessSettings.model_validate(wrong)


def test_through_the_application(make_config: Callable[..., Config], tmp_path: Path) -> None:
    config = make_config(access={"loopback_scopes": "", "cors_origins": "https://page.example"})
    search = add_key(tmp_path / "data" / "keys.json", "search", frozenset({"search"}))
    admin = add_key(tmp_path / "data" / "keys.json", "admin", frozenset({"admin"}))

    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        for path in ("/api/v1/search", "/v1/chat/completions"):
            reply = await client.post(path, json=QUESTION)
            assert reply.status_code == 401 and reply.headers["www-authenticate"].startswith("Bearer ")
            assert reply.headers["connection"] == "close"  # its body was not read
            assert reply.json()["code"] == "unauthenticated" and ("error" in reply.json()) is path.startswith("/v1/")
            reply = await client.post(path, json=QUESTION, headers={"x-api-key": admin})
            assert reply.status_code == 403 and "search" in reply.json()["detail"]
        good = {"authorization": f"Bearer {search}", "origin": "https://page.example"}
        reply = await client.post("/api/v1/search", json=QUESTION, headers=good)
        assert reply.status_code == 200 and "ratelimit" in reply.headers
        assert reply.headers["access-control-allow-origin"] == "https://page.example"
        assert "access-control-allow-credentials" not in reply.headers
        assert (await client.get("/metrics", headers=good)).status_code == 403
        assert (await client.get("/metrics", headers={"x-api-key": admin})).status_code == 200
        assert (await client.get("/livez")).status_code == 200
        refused = await client.post("/api/v1/search", json=QUESTION, headers={"origin": "https://page.example"})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://page.example"
        foreign = await client.post("/api/v1/search", json=QUESTION, headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in foreign.headers
        ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
        asked = await client.options("/api/v1/search", headers={"origin": "https://page.example", **ask})
        assert asked.status_code == 200 and len(asked.headers["x-request-id"]) == 26
        (tmp_path / "data" / "keys.json").write_text("{")
        parts.keys.refresh()
        ready = await client.get("/readyz", headers={"x-api-key": admin})
        assert "damaged" in ready.json()["keys_note"]
        assert (await client.get("/readyz")).json()["keys_note"] is None  # not for everybody

    run(config, work)


def test_cors_is_off_and_trace_and_bodies_are_checked(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        asked = {"origin": "https://page.example", "access-control-request-method": "POST"}
        reply = await client.options("/api/v1/search", headers=asked)
        assert reply.status_code == 405 and not [name for name in reply.headers if name.startswith("access-control")]
        parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        traced = (await client.get("/livez", headers={"traceparent": parent})).headers["traceparent"]
        assert traced.startswith("00-" + "a" * 32) and "b" * 16 not in traced
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=euc-kr", ""):
            reply = await client.post("/api/v1/search", content=b'{"question": "a"}', headers={"content-type": kind})
            assert reply.status_code == 415 and reply.json()["code"] == "unsupported_media_type"
        for path in ("/api/v1/search/", "//api/v1/search", "/API/v1/search", "/api/v1/search%00", "/%ff%fe"):
            reply = await client.post(path, json=QUESTION)
            assert reply.status_code == 404 and "location" not in reply.headers

    run(make_config(), work)
