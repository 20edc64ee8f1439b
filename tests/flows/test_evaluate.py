"""Both arms through a real HTTP server on loopback: same prompts, fair order, errors counted, all written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from flows.steps.evaluate import run_evaluate, subset
from lake.errors import BackendError, DatasetError
from lake.progress import Progress
from lake.prompt import PromptBuilder
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import EvalCase, Tool
from lake.tables import scan
from serving.backends import Backend
from serving.retriever import Retrieval

TOOLS = [Tool(f"tool-{i}", f"Tool{chr(65 + i)}", f"설명 {i}", url=f"https://t{i}.example") for i in range(4)]
GOLDEN = "추천: ToolA\n이유: 맞습니다.\n링크: https://t0.example"


def cases(n: int) -> list[EvalCase]:
    return [EvalCase(f"t-{i:03}", f"화면을 그리는 도구 {i}", "ko", GOLDEN, ["tool-0"], []) for i in range(n)]


class FixedRetriever:
    def search(self, question: str, top_k: int = 3, lang: str | None = None) -> Retrieval:
        items = [
            RetrievedItem(i + 1, 1 - i / 10, t.id, t.name, t.url, t.description, t.description, [], "c")
            for i, t in enumerate(TOOLS[:top_k])
        ]
        return Retrieval(items, {"embed": 1.0}, lang or "ko", "v", "e")


@dataclass
class Server:
    """An OpenAI-compatible server that answers by model name, and remembers what it was asked."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    fail_for: str = ""  # model whose questions with "3" in them get status 500
    busy: int = 0
    most: int = 0
    lock: Any = field(default_factory=threading.Lock)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
            with state.lock:
                state.bodies.append(body)
                state.busy += 1
                state.most = max(state.most, state.busy)
            if body["model"] == "missing":
                self.reply(404, {"error": {"message": "no such model"}})
            elif body["model"] == state.fail_for and "도구 3" in body["messages"][0]["content"]:
                self.reply(400, {"error": {"message": "broken"}})
            else:
                text = GOLDEN if body["model"] == "tuned-1" else "음, ToolB 와 ToolA 가 있습니다."
                choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 9, "completion_tokens": 7}
                self.reply(200, {"model": body["model"], "choices": [choice], "usage": usage})
            with state.lock:
                state.busy -= 1

        def reply(self, status: int, value: dict[str, Any]) -> None:
            data = orjson.dumps(value)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


def evaluate(server: Server, tmp_path: Path, n: int = 8, tuned: str = "tuned-1", **more: Any) -> dict[str, Any]:
    backends = {
        "base": Backend("vllm", server.url, "base-1"),
        "tuned": Backend("vllm", server.url, tuned),
    }
    return run_evaluate(
        cases=cases(n),
        tools=TOOLS,
        retriever=FixedRetriever(),
        builder=PromptBuilder(len),
        backends=backends,
        backend_name="vllm",
        adapter_id="a" * 16,
        run_id="run-1",
        out_file=tmp_path / "evaluation-vllm.json",
        lake_dir=tmp_path / "lake",
        progress=Progress(None, "evaluate", 2 * n),
        **more,
    )


def test_the_report_has_both_arms_and_their_difference(server: Server, tmp_path: Path) -> None:
    report = evaluate(server, tmp_path)
    right = report["metrics"]["tool_right"]
    assert right["base"]["value"] == 0.0 and right["tuned"]["value"] == right["diff"]["lo"] == 1.0
    assert report["n"] == 8 and report["errors"] == {"base": {}, "tuned": {}} and "items" not in report
    assert len(report["flips"]["won"]) == 8
    written = orjson.loads((tmp_path / "evaluation-vllm.json").read_bytes())
    first = written["items"][0]
    assert first["tuned"]["answer"] == GOLDEN and first["tuned"]["completion_tokens"] == 7
    assert first["base"]["scores"]["house_format"] == 0.0 and first["retrieved"][0]["id"] == "tool-0"
    assert {key: value for key, value in written.items() if key != "items"} == report


def test_both_arms_get_the_same_prompts_at_temperature_zero(server: Server, tmp_path: Path) -> None:
    evaluate(server, tmp_path, max_tokens=33)
    asked = [body for body in server.bodies if body["max_tokens"] == 33]
    texts = {
        model: sorted(body["messages"][0]["content"] for body in asked if body["model"] == model)
        for model in ("base-1", "tuned-1")
    }
    assert texts["base-1"] == texts["tuned-1"] and len(texts["base-1"]) == 8
    assert {body["temperature"] for body in asked} == {0.0}


def test_arms_take_turns_in_going_first(server: Server, tmp_path: Path) -> None:
    evaluate(server, tmp_path, concurrency=1, max_tokens=33)
    order = [body["model"] for body in server.bodies if body["max_tokens"] == 33]
    assert order[:4] == ["base-1", "tuned-1", "tuned-1", "base-1"]


def test_concurrency_is_bounded(server: Server, tmp_path: Path) -> None:
    evaluate(server, tmp_path, n=12, concurrency=3)
    assert 1 <= server.most <= 3


def test_failures_are_wrong_answers_with_a_reason(server: Server, tmp_path: Path) -> None:
    server.fail_for = "tuned-1"
    report = evaluate(server, tmp_path)
    assert report["errors"]["tuned"] and sum(report["errors"]["tuned"].values()) == 1
    assert report["metrics"]["tool_right"]["tuned"]["value"] == pytest.approx(7 / 8)
    assert report["metrics"]["tool_right"]["tuned"]["n"] == 8
    items = orjson.loads((tmp_path / "evaluation-vllm.json").read_bytes())["items"]
    failed = [item for item in items if item["tuned"]["finish_reason"] == "error"]
    assert len(failed) == 1 and failed[0]["tuned"]["answer"] == "" and "broken" in failed[0]["tuned"]["error"]


def test_a_model_that_is_not_served_ends_the_evaluation(server: Server, tmp_path: Path) -> None:
    with pytest.raises(BackendError):
        evaluate(server, tmp_path, tuned="missing")
    assert not (tmp_path / "evaluation-vllm.json").exists()


def test_answers_land_in_the_lake(server: Server, tmp_path: Path) -> None:
    evaluate(server, tmp_path, n=3)
    rows = scan(tmp_path / "lake", "evaluations").collect()
    assert rows.height == 6 and set(rows["arm"]) == {"base", "tuned"}
    tuned = rows.filter(rows["arm"] == "tuned").row(0, named=True)
    assert tuned["adapter_id"] == "a" * 16 and orjson.loads(tuned["scores"])["tool_right"] == 1.0


def test_the_subset_is_stratified_seeded_and_in_order() -> None:
    mixed = [
        EvalCase(f"t-{i:03}", "q", "ko" if i % 3 else "en", "g", [] if i % 10 == 0 else ["x"], []) for i in range(150)
    ]
    chosen = subset(mixed, 50, seed=1)
    assert len(chosen) == 50 and chosen == subset(mixed, 50, seed=1) and chosen != subset(mixed, 50, seed=2)
    assert [case.id for case in chosen] == sorted(case.id for case in chosen)
    assert sum(case.lang == "ko" for case in chosen) in range(32, 36)
    assert sum(not case.tools for case in chosen) in range(4, 7)
    assert subset(mixed, None, 1) == mixed == subset(mixed, 999, 1)
    with pytest.raises(DatasetError):
        subset(mixed, 0, 1)
