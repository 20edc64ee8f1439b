"""Other people's logs: mapped by preset or mapping, ids that stay the same, nothing lost, nothing doubled."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from flows.settings import FlowSettings
from flows.steps.import_logs import PRESETS, STAGING, run_import
from flows.steps.stage import StageContext
from lake.errors import InputError
from lake.foreign import load_mapping
from lake.journal.writer import JournalWriter
from lake.lookup import find_request
from lake.settings import LakeSettings
from serving.settings import ServingSettings
from tests.lake.ingest_kit import NOW, ingest, rows


@pytest.fixture
def stage(tmp_path: Path) -> StageContext:
    return StageContext(
        "run", "import-logs", LakeSettings(data_dir=tmp_path / "data"), ServingSettings(), FlowSettings()
    )


def write(path: Path, *records: Any) -> str:
    data = [one if isinstance(one, bytes) else orjson.dumps(one) for one in records]
    path.write_bytes(b"\n".join(data) + b"\n")
    return str(path)


def completion(text: str | None, **changes: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1772366400, "model": "gpt-x",
        "choices": [choice], "usage": usage,
    } | changes  # fmt: skip


ASKED = [{"role": "system", "content": "도구 추천"}, {"role": "user", "content": "이슈 추적 도구?"}]


def litellm_payload(**changes: Any) -> dict[str, Any]:
    return {
        "id": "call-1", "trace_id": "t-1", "call_type": "acompletion", "stream": False, "status": "success",
        "custom_llm_provider": "openai", "prompt_tokens": 12, "completion_tokens": 3, "startTime": 1772366400.25,
        "endTime": 1772366401.25, "model": "gpt-x", "messages": ASKED, "response": completion("추천: Jira"),
        "metadata": {"user_api_key_hash": "hash-1"}, "error_str": None, "end_user": "",
    } | changes  # fmt: skip


def test_litellms_standard_payload_and_its_failures(stage: StageContext, tmp_path: Path) -> None:
    failed = litellm_payload(id="call-2", response=None, status="failure", error_str="RateLimitError: slow down")
    embedding = litellm_payload(id="call-3", call_type="aembedding")
    file = write(tmp_path / "a.jsonl", litellm_payload(), failed, embedding)
    report = run_import(stage, file, "litellm")
    assert (report["lines"], report["imported"], report["unmapped"]) == (3, 2, {"skipped": 1})
    assert ingest(stage.lake, NOW).total.ingested == 4
    good, bad = sorted(rows(stage.lake), key=lambda row: row["outcome"])
    assert good["user_query"] == "이슈 추적 도구?" and good["llm_response_content"] == "추천: Jira"
    assert (
        good["timestamp"] == datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC) and good["latency_ms"]["total"] == 1000
    )
    assert (good["model"], good["backend"], good["finish_reason"]) == ("gpt-x", "openai", "stop")
    assert (good["prompt_tokens"], good["key_id"], good["session_id"]) == (12, "hash-1", "t-1")
    assert (good["client_request_id"], good["lang"], good["operation"]) == ("call-1", "ko", "chat")
    assert (bad["outcome"], bad["error"]) == ("llm_error", "RateLimitError: slow down")
    found = find_request(stage.lake, good["request_id"])
    assert found is not None and found.where == ["journal", "lake"]


def test_rows_of_litellms_spend_logs_with_json_inside_texts(stage: StageContext, tmp_path: Path) -> None:
    row = {
        "request_id": "chatcmpl-9", "call_type": "acompletion", "api_key": "hash-2",
        "startTime": datetime(2026, 3, 1, 12),
        "endTime": datetime(2026, 3, 1, 12, 0, 2), "model": "m", "messages": "{}", "prompt_tokens": 1,
        "response": orjson.dumps(completion("Use Jira")).decode(), "completion_tokens": 2,
        "proxy_server_request": orjson.dumps({"messages": ASKED, "model": "m"}).decode(), "session_id": "s",
    }  # fmt: skip
    path = tmp_path / "spend.parquet"
    pl.DataFrame([row, row | {"request_id": "chatcmpl-10", "proxy_server_request": "{}"}]).write_parquet(path)
    report = run_import(stage, str(path), "litellm")
    assert (report["imported"], report["unmapped"]) == (1, {"no_question": 1})
    ingest(stage.lake, NOW)
    (got,) = rows(stage.lake)
    assert (got["user_query"], got["llm_response_content"], got["key_id"]) == ("이슈 추적 도구?", "Use Jira", "hash-2")
    assert got["timestamp"] == NOW and got["latency_ms"]["total"] == 2000


OPENAI = [
    {"request": {"model": "gpt-x", "messages": ASKED}, "response": completion("추천: Jira")},
    completion("추천: Jira", id="chatcmpl-2", messages=ASKED, metadata={"session_id": "s"}),
    {"custom_id": "q-1", "body": {"messages": ASKED}, "response": {"body": completion("추천: Jira", id="chatcmpl-3")}},
    {"created_at": "2026-03-01T12:00:00Z", "messages": [*ASKED, {"role": "assistant", "content": "추천: Jira"}]},
    {"timestamp": "1772366400000", "input": "이슈 추적 도구?", "output": "추천: Jira", "id": "x"},
    {"created": 1772366400, "messages": [{"role": "user", "content": [{"type": "text", "text": "이슈 추적 도구?"}]}],
     "completion": "추천: Jira", "id": "parts"},
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(OPENAI)))
def test_shapes_of_openai_style_logs(stage: StageContext, tmp_path: Path, number: int) -> None:
    report = run_import(stage, write(tmp_path / "a.jsonl", OPENAI[number]), "openai")
    assert report["imported"] == 1, report
    ingest(stage.lake, NOW)
    (row,) = rows(stage.lake)
    assert (row["user_query"], row["llm_response_content"]) == ("이슈 추적 도구?", "추천: Jira")
    assert row["timestamp"] == NOW and row["outcome"] == "answered"


def test_the_same_records_give_no_new_rows_however_they_come(stage: StageContext, tmp_path: Path) -> None:
    untitled = [{"created": 1772366400 + n, "input": f"질문 {n}", "output": f"답 {n}"} for n in range(30)]
    first = write(tmp_path / "a.jsonl", *untitled)
    assert run_import(stage, first, "openai")["imported"] == 30
    assert run_import(stage, first, "openai")["imported"] == 30, "not in the lake yet: journalled twice"
    report = ingest(stage.lake, NOW)
    assert report.rows_added["requests"] == 30 and report.run.dropped == {"duplicate_id": 60}
    again = run_import(stage, first, "openai")
    assert (again["imported"], again["known"], again["worker"]) == (0, 30, None)
    other = tmp_path / "b.json.gz"
    other.write_bytes(gzip.compress(orjson.dumps([*reversed(untitled), untitled[0] | {"created": 1772366500}])))
    assert run_import(stage, str(other), "openai")["imported"] == 1
    assert ingest(stage.lake, NOW).rows_added["requests"] == 1 and len(rows(stage.lake)) == 31


def test_what_cannot_be_mapped_is_counted_and_kept_once(stage: StageContext, tmp_path: Path) -> None:
    talk = [*ASKED, {"role": "assistant", "content": "Jira"}, {"role": "user", "content": "그다음은?"}]
    bad: list[Any] = [
        b"{broken", b"[1]", {"created": 1, "input": "q", "output": "a"}, {"input": "q", "output": "a"},
        {"created": "soon", "input": "q", "output": "a"}, {"created": 1772366400, "output": "a"},
        {"created": 1772366400, "input": "q"}, {"created": 1772366400, "messages": talk, "completion": "x"},
        {"created": 1772366400, "input": "q" * 2_000_000, "output": "a"}, b"\xff\xfe",
    ]  # fmt: skip
    file = write(tmp_path / "a.jsonl", *bad, b"", OPENAI[0])
    report = run_import(stage, file, "openai")
    assert report["unmapped"] == {
        "not_json": 2, "not_an_object": 1, "timestamp": 2, "no_timestamp": 1, "no_question": 1, "no_answer": 1,
        "multi_turn": 1, "too_large": 1,
    }  # fmt: skip
    assert report["lines"] == 11 == report["imported"] + sum(report["unmapped"].values())
    kept = [orjson.loads(line) for line in Path(report["unmapped_in"]).read_bytes().splitlines()]
    assert [one["line"] for one in kept] == list(range(1, 11)) and kept[0]["raw"] == "{broken"
    assert run_import(stage, file, "openai")["unmapped_in"] == report["unmapped_in"]
    assert len(list((stage.lake.data_dir / "quarantine" / "imports").iterdir())) == 1
    timed = run_import(stage, file, "openai", "2026-03-01T00:00:00Z")
    assert "no_timestamp" not in timed["unmapped"]
    with pytest.raises(InputError, match="default-time"):
        run_import(stage, file, "openai", "soon")


def test_a_mapping_of_ones_own(stage: StageContext, tmp_path: Path) -> None:
    mapping = tmp_path / "ours.toml"
    mapping.write_text(
        """
        timestamp_format = "%d/%m/%Y %H:%M"
        multi_turn = "last"
        [fields]
        id = "nr"
        timestamp = "meta.when"
        question = ["turns", "q"]
        answer = "a"
        [constants]
        model = "solar"
        lang = "ko"
        [items]
        at = "context.tools"
        name = "title"
        text = "body"
        """
    )
    tools = [{"title": "Jira", "body": "이슈", "score": 0.5, "url": "https://j"}, {"title": "Trello"}]
    record = {"nr": 7, "meta": {"when": "01/03/2026 12:00"}, "a": "Jira", "context": {"tools": tools}, "q": "?"}
    turns = [ASKED[1], {"role": "user", "content": "마지막"}]
    file = write(
        tmp_path / "a.ndjson", record, record | {"nr": 8, "turns": turns}, record | {"nr": 9, "context": {"tools": [1]}}
    )
    report = run_import(stage, file, str(mapping))
    assert (report["imported"], report["unmapped"]) == (2, {"items": 1})
    ingest(stage.lake, NOW)
    first, last = rows(stage.lake)
    assert (first["client_request_id"], first["model"], first["lang"], first["top_k"]) == ("7", "solar", "ko", 2)
    assert first["retrieved_items"][0]["name"] == "Jira" and first["retrieved_items"][0]["chunk_text"] == "이슈"
    assert first["retrieved_items"][1]["id"] == "Trello" and last["user_query"] == "마지막"


def test_a_killed_import_leaves_nothing_behind_that_ingest_would_take(
    stage: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "a.jsonl", *({"created": 1772366400, "input": f"{n}", "output": "a"} for n in range(9)))
    real, calls = JournalWriter.append_blocking, []

    def dying(self: JournalWriter, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:  # between a request and its response
            raise KeyboardInterrupt
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(JournalWriter, "append_blocking", dying)
        with pytest.raises(KeyboardInterrupt):
            run_import(stage, file, "openai")
    assert ingest(stage.lake, NOW).total.journalled == 0
    assert len(list((stage.lake.journal_dir / STAGING).iterdir())) == 1
    assert run_import(stage, file, "openai")["imported"] == 9
    assert list((stage.lake.journal_dir / STAGING).iterdir()) == []
    assert ingest(stage.lake, NOW).total.ingested == 18
    assert {row["outcome"] for row in rows(stage.lake)} == {"answered"}


def test_presets_and_wrong_mappings(tmp_path: Path) -> None:
    assert {load_mapping(one.stem, PRESETS).name for one in PRESETS.glob("*.toml")} == {"litellm", "openai"}
    for text, said in (
        ("[fields]\nwhen = 'x'", "when"),
        ("multi_turn = 'all'", "multi_turn"),
        ("= 5", "can't be read"),
    ):
        (tmp_path / "m.toml").write_text(text)
        with pytest.raises(InputError, match=said):
            load_mapping(str(tmp_path / "m.toml"), PRESETS)
    with pytest.raises(InputError, match="litellm, openai"):
        load_mapping("langfuse", PRESETS)
