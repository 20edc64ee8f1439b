"""One request through the wheel and out of it: gateway, journal, ingest, build, adapter, then erased and proven."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx

from flows.steps.build import BuildConfig, BuildInputs, run_build
from gateway.parts import Config, Parts
from lake import house_style
from lake.erase import begin, carry_on
from lake.ingest import ingest
from lake.journal.writer import JournalWriter
from lake.lineage_files import dataset_folders, rows_of
from lake.registry import Registry
from lake.schemas.records import FrameKind, ReviewRecord
from lake.settings import LakeSettings
from lake.tables import scan
from lake.trace import trace_request, tree
from tests.gateway.kit import run
from tests.lake.erase_kit import BUILDER, World, left_of, promote, register

CHAT = "/v1/chat/completions"
QUESTIONS = [
    "박영희 과장이 다음 주 화상 회의를 녹화해서 돌려 볼 도구를 찾습니다",
    "디자이너 세 명이 같은 화면을 동시에 그리는 도구가 있습니까",
    "버그와 할 일을 칸반 보드로 관리하려는 개발팀의 도구를 알려 주세요",
    "개인 노트와 위키를 한곳에 모아 두고 싶은 대학원생입니다",
]


def golden(paths: LakeSettings, ids: list[str]) -> None:
    """A person's answer to each request, in the house's form, with the tool that was ranked first."""
    rows = {row["request_id"]: row for row in scan(paths.lake_dir, "requests").collect().to_dicts()}
    with JournalWriter(paths.journal_dir, role="reviews") as writer:
        for number, rid in enumerate(ids):
            top = rows[rid]["retrieved_items"][0]
            answer = house_style.render("ko", top["name"], top["description"], top["url"])
            review = ReviewRecord(
                f"review-{number:08}", datetime.now(UTC).isoformat(), rows[rid]["user_query"], answer, "kim", "ko",
                request_id=rid, tools=[top["id"]],
            )  # fmt: skip
            writer.append_blocking(FrameKind.REVIEW, review.payload())


def build(paths: LakeSettings) -> str:
    config = BuildConfig(holdout_share=0.0, key_share=1.0)
    return run_build(paths.lake_dir, paths.datasets_dir, BuildInputs(BUILDER), config)["dataset"]


def test_from_the_gateway_to_an_adapter_and_out_of_everything(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        paths = parts.lake
        ids: list[str] = []
        for question in QUESTIONS:
            asked = {"model": "mulle", "messages": [{"role": "user", "content": question}]}
            reply = await client.post(CHAT, json=asked)
            assert reply.status_code == 200
            ids.append(reply.headers["x-request-id"])
        report = await asyncio.to_thread(ingest, paths, datetime.now(UTC))
        assert report.total.closes and report.rows["requests"] == 4
        golden(paths, ids)
        await asyncio.to_thread(ingest, paths, datetime.now(UTC))
        world = World(paths, ids)
        version = await asyncio.to_thread(build, paths)
        adapter = register(world, version, 7, QUESTIONS[0])
        promote(world, adapter)
        traced = trace_request(paths, ids[0])
        assert traced.datasets == (version,) and [one.adapter_id for one in traced.adapters] == [adapter]
        assert traced.rows[0].label_source == "golden" and adapter in tree(traced)
        assert (await client.get(f"/api/v1/requests/{ids[0]}")).status_code == 200

        def erase() -> dict[str, object]:
            begun = begin(paths, "request", ids[0], datetime.now(UTC), log=lambda _: None)
            assert begun is not None
            return carry_on(paths, begun, datetime.now(UTC), at_once=True, log=lambda _: None)

        done = await asyncio.to_thread(erase)  # beside the gateway, which holds the journal open
        assert done["state"] == "proven", done
        assert (await client.get(f"/api/v1/requests/{ids[0]}")).status_code == 404
        assert (await client.get(f"/api/v1/requests/{ids[1]}")).status_code == 200
        feedback = await client.post("/api/v1/feedback", json={"request_id": ids[0], "thumb": "up"})
        assert feedback.status_code == 404
        assert left_of(world, ids[0], QUESTIONS[0], "review-00000000") == []
        assert Registry(paths.models_dir).champion() is None
        rebuilt = await asyncio.to_thread(build, paths)
        assert rebuilt != version
        (folder,) = dataset_folders(paths.datasets_dir)
        assert folder.name == rebuilt and not list(rows_of(folder, {ids[0], "review-00000000"}))
        assert list(rows_of(folder, {ids[1]}))
        asked = {"model": "mulle", "messages": [{"role": "user", "content": "그 뒤에도 게이트웨이는 대답합니까"}]}
        assert (await client.post(CHAT, json=asked)).status_code == 200
        for whole in (False, True):
            books = await asyncio.to_thread(lambda whole=whole: ingest(paths, datetime.now(UTC), whole=whole))
            assert books.total.closes and books.total.dropped == {"erased": 3} and books.rows["requests"] == 4

    run(make_config(), work)
