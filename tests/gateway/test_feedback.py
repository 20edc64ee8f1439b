"""Feedback, reviews, the look-up of a request, and opting out: over HTTP, down to the lake."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from ulid import ULID

from gateway.parts import Config, Parts
from lake.ingest import ingest
from lake.tables import scan
from tests.gateway.kit import PATH, Upstream, run

SECRET = "비밀 회의 도구"


def rows(parts: Parts, name: str) -> list[dict[str, Any]]:
    report = ingest(parts.lake, datetime.now(UTC))
    assert report.total.closes
    return scan(parts.lake.lake_dir, name).collect().to_dicts()


async def asked(client: httpx.AsyncClient, **body: Any) -> str:
    reply = await client.post(PATH, json={"question": "화상 회의 도구"} | body)
    assert reply.status_code == 200, reply.text
    return reply.json()["request_id"]


def test_feedback_before_and_after_ingest(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        rid = await asked(client)
        first = await client.post("/api/v1/feedback", json={"request_id": rid, "thumb": "down", "score": 2})
        assert first.status_code == 201 and first.json()["request_id"] == rid
        ids = {first.json()["feedback_id"]}
        assert [row["thumb"] for row in rows(parts, "feedback")] == ["down"]
        body = {"request_id": rid, "comment": " 더 짧게 ", "corrected_answer": "추천: Zoom"}
        second = await client.post("/api/v1/feedback", json=body)
        ids.add(second.json()["feedback_id"])
        stored = {row["feedback_id"]: row for row in rows(parts, "feedback")}
        assert set(stored) == ids and stored[second.json()["feedback_id"]]["comment"] == "더 짧게"
        shown = (await client.get(f"/api/v1/requests/{rid}")).json()
        assert shown["where"] == ["journal", "lake"] and shown["stored"] is True
        assert shown["request"]["user_query"] == shown["row"]["user_query"] == "화상 회의 도구"
        assert [one["thumb"] for one in shown["feedback"]] == ["down", None]

    run(make_config(), work)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"thumb": "up"}, 422, "invalid_input"),
        ({"request_id": "x", "thumb": "up"}, 422, "invalid_input"),
        ({"request_id": "RID"}, 422, "invalid_input"),
        ({"request_id": "RID", "comment": "  "}, 422, "invalid_input"),
        ({"request_id": "RID", "thumb": "sideways"}, 422, "invalid_input"),
        ({"request_id": "RID", "score": 6}, 422, "invalid_input"),
        ({"request_id": "RID", "score": True}, 422, "invalid_input"),
        ({"request_id": "RID", "comment": "x" * 4001}, 422, "invalid_input"),
        ({"request_id": "RID", "comment": "a\0b"}, 422, "invalid_input"),
        ({"request_id": "OTHER", "thumb": "up"}, 404, "unknown_request"),
    ],
)
def test_feedback_that_can_not_be_taken(
    make_config: Callable[..., Config], body: dict[str, Any], status: int, code: str
) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        rid = await asked(client)
        named = {"RID": rid, "OTHER": str(ULID())}
        sent = {key: named.get(value, value) if isinstance(value, str) else value for key, value in body.items()}
        reply = await client.post("/api/v1/feedback", json=sent)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert rows(parts, "feedback") == []

    run(make_config(), work)


def test_opted_out_text_is_shown_to_an_admin_and_nowhere_in_the_lake(
    make_config: Callable[..., Config], upstream: Upstream
) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        rid = await asked(client, question=SECRET, store=False, session_id="s-1")
        streamed = await client.post(PATH, json={"question": SECRET, "store": False, "stream": True})
        assert "event: done" in streamed.text
        said = {"request_id": rid, "comment": SECRET, "thumb": "up"}
        assert (await client.post("/api/v1/feedback", json=said)).status_code == 201
        review = {"request_id": rid, "answer": "추천: Zoom"}
        assert (await client.post("/api/v1/reviews", json=review)).status_code == 422
        shown = (await client.get(f"/api/v1/requests/{rid}")).json()
        assert shown["stored"] is False and shown["request"]["user_query"] == SECRET
        assert shown["response"]["llm_response_content"] == "answer of model-a"
        assert shown["feedback"][0]["comment"] == SECRET
        lake = rows(parts, "requests")
        assert len(lake) == 2 and all(row["user_query"] == "" and row["stored"] is False for row in lake)
        assert all(row["llm_response_content"] is None and row["retrieved_items"] == [] for row in lake)
        assert [(row["thumb"], row["comment"]) for row in rows(parts, "feedback")] == [("up", None)]
        for root in (parts.lake.journal_dir, parts.lake.lake_dir):
            for file in root.rglob("*"):
                assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file

    run(make_config(), work)


def test_reviews_reach_the_lake(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        rid = await asked(client)
        golden = {"request_id": rid, "answer": "추천: Zoom", "tools": ["zoom"], "reviewer": "kim"}
        golden["original_answer"] = "what nobody had answered"  # the log knows better
        assert (await client.post("/api/v1/reviews", json=golden)).status_code == 201
        free = {"question": "번역 도구?", "answer": "추천: 파파고", "tools": ["papago"], "source": "page"}
        free |= {"original_answer": " 추천: 구글 번역 ", "original_model": "m"}
        assert (await client.post("/api/v1/reviews", json=free)).status_code == 201
        stored = {row["question"]: row for row in rows(parts, "reviews")}
        assert stored["화상 회의 도구"]["request_id"] == rid and stored["화상 회의 도구"]["reviewer"] == "kim"
        assert stored["번역 도구?"]["tools"] == ["papago"]
        logged = stored["화상 회의 도구"]
        assert (logged["original_answer"], logged["original_model"]) == ("answer of model-a", "m")
        assert (logged["original_request_id"], logged["source"]) == (rid, "api")
        said = stored["번역 도구?"]
        assert (said["original_answer"], said["original_model"], said["source"]) == ("추천: 구글 번역", "m", "page")
        for bad, status in (
            ({"answer": "a"}, 422), ({"question": "q", "answer": " "}, 422),
            ({"question": "다른 질문", "request_id": rid, "answer": "a"}, 422),
            ({"request_id": str(ULID()), "answer": "a"}, 404),
            ({"question": "질문", "answer": "a", "tools": ["x"] * 51}, 422),
            ({"question": "질문", "answer": "a", "original_answer": "x" * 4001}, 422),
            ({"question": "질문", "answer": "a", "source": "csv"}, 422),
        ):  # fmt: skip
            assert (await client.post("/api/v1/reviews", json=bad)).status_code == status, bad

    run(make_config(), work)


def test_ids_of_the_edge_are_logged(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        trace = "0af7651916cd43dd8448eb211c80319c"
        headers = {"x-request-id": "mine-1", "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        reply = await client.post(PATH, json={"question": "화상 회의"}, headers=headers)
        assert reply.headers["traceparent"].split("-")[1] == trace
        (row,) = rows(parts, "requests")
        assert row["request_id"] == reply.headers["x-request-id"] and row["client_request_id"] == "mine-1"
        assert row["trace_id"] == trace and row["operation"] == "search" and row["streamed"] is False

    run(make_config(), work)


def test_unknown_requests_are_not_found(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        reply = await client.get(f"/api/v1/requests/{ULID()}")
        assert reply.status_code == 404 and reply.json()["code"] == "unknown_request"
        assert (await client.get("/api/v1/requests/none")).status_code == 422

    run(make_config(), work)


def test_filters_bound_what_is_retrieved(make_config: Callable[..., Config]) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        every = (await client.post(PATH, json={"question": "도구 추천", "top_k": 10})).json()["items"]
        category = every[0]["category"]
        only = (await client.post(PATH, json={"question": "도구 추천", "top_k": 10, "categories": [category]})).json()
        assert {item["id"] for item in only["items"]} == {item["id"] for item in every if item["category"] == category}
        tag = every[-1]["tags"][0]
        tagged = (await client.post(PATH, json={"question": "도구 추천", "top_k": 10, "tags": [tag]})).json()
        assert {item["id"] for item in tagged["items"]} == {item["id"] for item in every if tag in item["tags"]}
        nothing = await client.post(PATH, json={"question": "도구 추천", "categories": ["no such category"]})
        assert nothing.status_code == 200 and nothing.json()["items"] == []
        for bad in ({"tags": ["x"] * 21}, {"tags": [""]}, {"categories": ["y" * 101]}, {"categories": "z"}):
            assert (await client.post(PATH, json={"question": "도구"} | bad)).status_code == 422
        logged = {row["request_id"]: row for row in rows(parts, "requests")}
        assert logged[only["request_id"]]["categories"] == [category]
        assert logged[tagged["request_id"]]["filter_tags"] == [tag]

    run(make_config(), work)
