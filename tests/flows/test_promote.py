"""Promotion: the registry changes last, a failure at any step leaves the champion and unloads the candidate.

vLLM is a small HTTP server here that keeps names and answers log-probabilities; the real one is in tests/e2e.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from safetensors.numpy import save_file

from flows.steps.promote import run_promote
from lake.errors import AdapterError, BackendError, GateError, MulleError
from lake.files import sha256_file, write_json_atomic
from lake.progress import Progress
from lake.registry import Registry
from serving.base_models import BaseModel

MODULE = "model.layers.0.self_attn.q_proj"
TUNED, BASE = -0.1, -2.0


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    root = tmp_path / "models" / "base" / "tiny"
    (root / "hf").mkdir(parents=True)
    save_file({f"{MODULE}.weight": np.ones((6, 4), np.float32)}, root / "hf" / "model.safetensors")
    return BaseModel(
        name="tiny", root=root, kind="convert", architecture="llama", licence="x", licence_url="",
        weights_sha256="w" * 64, template_sha256="t" * 64, gguf_sha256="", bos_token_id=1, eos_token_id=2,
        vocab_size=8, context_length=64,
    )  # fmt: skip


def add_adapter(models: Path, folder: Path, seed: int, separable: bool = True) -> str:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    weights = {
        f"base_model.model.{MODULE}.lora_A.weight": rng.normal(size=(2, 4)).astype(np.float32),
        f"base_model.model.{MODULE}.lora_B.weight": rng.normal(size=(6, 2)).astype(np.float32),
    }
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "tiny", "bias": "none"}
    write_json_atomic(folder / "adapter_config.json", config)
    probe = {"prompt_token_ids": [1, 3], "completion_token_ids": [4, 2]}
    probe |= {"logprobs_tuned": [TUNED, TUNED], "logprobs_base": [BASE, BASE]}
    reference = {"tolerance": 0.2, "separable": separable, "distance": 1.9, "noise": 0.02, "probes": [probe]}
    write_json_atomic(folder / "reference.json", reference)
    files = {file.name: {"sha256": sha256_file(file)} for file in folder.iterdir()}
    manifest = {"base_model": "tiny", "base_sha256": "w" * 64, "template_sha256": "t" * 64, "rank": 2}
    write_json_atomic(folder / "manifest.json", {**manifest, "files": files})
    return Registry(models).add(folder).adapter_id


class FakeVLLM:
    """Keeps loaded names; `fault` chooses what goes wrong."""

    def __init__(self) -> None:
        self.loaded: dict[str, str] = {}
        self.unloaded: list[str] = []
        self.fault = ""
        self.on_probe: Any = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                models = [{"id": "tiny", "root": "/b", "parent": None}]
                models += [{"id": n, "root": p, "parent": "tiny"} for n, p in outer.loaded.items()]
                self.reply(200, {"data": models})

            def do_POST(self) -> None:
                body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path == "/v1/load_lora_adapter":
                    if outer.fault == "refuses":
                        self.reply(400, {"error": {"message": "rank too high"}})
                        return
                    outer.loaded[body["lora_name"]] = body["lora_path"]
                    self.reply(200, {})
                elif self.path == "/v1/unload_lora_adapter":
                    outer.unloaded.append(body["lora_name"])
                    self.reply(200 if outer.loaded.pop(body["lora_name"], None) else 404, {})
                else:
                    if outer.fault == "dies":
                        self.connection.close()
                        return
                    if outer.on_probe is not None:
                        outer.on_probe()
                    value = BASE if body["model"] == "tiny" or outer.fault == "no-op" else TUNED
                    rows = [None] + [{str(token): {"logprob": value}} for token in body["prompt"][1:]]
                    self.reply(200, {"choices": [{"prompt_logprobs": rows}]})

            def reply(self, status: int, value: dict[str, Any]) -> None:
                data = orjson.dumps(value)
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def vllm() -> Iterator[FakeVLLM]:
    server = FakeVLLM()
    thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()
    thread.join()


def gate(one: str, champion: str | None = None, passed: bool = True) -> dict[str, Any]:
    checks = [{"name": "tool_right", "value": 0.1, "sign": ">", "limit": 0.0, "passed": passed}]
    return {
        "passed": passed, "adapter_id": one, "champion_id": champion, "evidence_sha256": "e" * 64, "checks": checks,
    }  # fmt: skip


def promote(models: Path, base: BaseModel, one: str, record: dict[str, Any], url: str = "") -> dict[str, Any]:
    progress = Progress(None, "promote", 5)
    return run_promote(
        models_dir=models, adapter_id=one, gate_record=record, base=base, actor="test", progress=progress, vllm_url=url
    )


def test_a_proven_candidate_becomes_champion_under_a_new_name(tmp_path: Path, base: BaseModel, vllm: FakeVLLM) -> None:
    models = tmp_path / "models"
    one = add_adapter(models, tmp_path / "a", 1)
    report = promote(models, base, one, gate(one), vllm.url)
    assert report["live"] and report["live_proof"]["passed"] and report["served_name"] in vllm.loaded
    assert one in report["served_name"] and set(report["timings_s"]) == {"gate", "files", "load", "probe", "registry"}
    champion = Registry(models).champion()
    assert champion is not None and champion.adapter_id == one
    again = promote(models, base, one, gate(one), vllm.url)
    assert again["served_name"] != report["served_name"]


def test_without_a_server_only_the_registry_changes_and_it_says_so(tmp_path: Path, base: BaseModel) -> None:
    models = tmp_path / "models"
    one = add_adapter(models, tmp_path / "a", 1)
    report = promote(models, base, one, gate(one))
    assert not report["live"] and report["served_name"] is None and "registry only" in report["note"]
    assert (models / "finetuned_adapter").resolve().name == one


@pytest.mark.parametrize(
    ("fault", "step", "kind"),
    [
        ("refuses", "load", AdapterError),
        ("no-op", "probe", AdapterError),
        ("dies", "probe", BackendError),
    ],
)
def test_a_failure_leaves_the_champion_and_unloads_the_candidate(
    tmp_path: Path, base: BaseModel, vllm: FakeVLLM, fault: str, step: str, kind: type[MulleError]
) -> None:
    models = tmp_path / "models"
    one, two = add_adapter(models, tmp_path / "a", 1), add_adapter(models, tmp_path / "b", 2)
    promote(models, base, one, gate(one), vllm.url)
    served = dict(vllm.loaded)
    vllm.fault = fault
    with pytest.raises(kind) as caught:
        promote(models, base, two, gate(two, one), vllm.url)
    assert caught.value.detail["step"] == step and caught.value.detail["champion"] == one
    assert vllm.loaded == served and len(vllm.unloaded) == 1
    champion = Registry(models).champion()
    assert champion is not None and champion.adapter_id == one
    assert (models / "finetuned_adapter").resolve().name == one


def test_losing_a_race_after_the_proof_unloads_the_candidate(tmp_path: Path, base: BaseModel, vllm: FakeVLLM) -> None:
    models = tmp_path / "models"
    one, two = add_adapter(models, tmp_path / "a", 1), add_adapter(models, tmp_path / "b", 2)

    def other_wins() -> None:
        vllm.on_probe = None
        Registry(models).promote(one, gate(one), "other")

    vllm.on_probe = other_wins
    with pytest.raises(GateError, match="another promotion"):
        promote(models, base, two, gate(two), vllm.url)
    assert vllm.loaded == {} and len(vllm.unloaded) == 1
    champion = Registry(models).champion()
    assert champion is not None and champion.adapter_id == one


def test_nothing_is_loaded_without_a_passed_gate_or_with_damaged_files(
    tmp_path: Path, base: BaseModel, vllm: FakeVLLM
) -> None:
    models = tmp_path / "models"
    one = add_adapter(models, tmp_path / "a", 1)
    with pytest.raises(GateError):
        promote(models, base, one, gate(one, passed=False), vllm.url)
    weights = models / "adapters" / one / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(AdapterError) as caught:
        promote(models, base, one, gate(one), vllm.url)
    assert caught.value.detail["step"] == "files"
    dull = add_adapter(models, tmp_path / "c", 3, separable=False)
    with pytest.raises(AdapterError, match="can't be told"):
        promote(models, base, dull, gate(dull), vllm.url)
    assert vllm.loaded == {} and vllm.unloaded == [] and Registry(models).champion() is None
