"""Hostile and broken adapters are refused before load; a probe tells the right adapter from every other state."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from lake.errors import AdapterError, BackendError, BackendTimeout
from lake.files import write_json_atomic
from serving.adapters import (
    check_adapter,
    judge,
    list_models,
    load_adapter,
    new_adapter_name,
    probe,
    read_reference,
    teacher_forced_logprobs,
    unload_adapter,
)

MAX_RANK = 16


def test_a_sound_adapter_passes_with_its_facts(tiny_base: Any, make_lora: Any, tmp_path: Path) -> None:
    base = tiny_base().base
    folder = make_lora(base, rank=4)
    facts = check_adapter(folder, base, MAX_RANK, within=tmp_path)
    assert (facts.rank, facts.scale, len(facts.modules)) == (4, 2.0, 7)
    assert facts.modules[0] == "model.layers.0.mlp.down_proj"
    link = tmp_path / "finetuned_adapter"
    link.symlink_to(folder)
    assert check_adapter(link, base, MAX_RANK, within=tmp_path).folder == folder.resolve()
    with pytest.raises(AdapterError, match="lies outside"):
        check_adapter(link, base, MAX_RANK, within=tmp_path / "models")
    rslora = make_lora(base, name="rs", rank=4, config={"use_rslora": True})
    assert check_adapter(rslora, base, MAX_RANK).scale == 8 / 2


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"auto_mapping": {"base_model_class": "x"}}, "auto_mapping"),
        ({"auto_map": {"AutoModel": "evil.py"}}, "auto_map is set"),
        ({"peft_type": "IA3"}, "not LORA"),
        ({"bias": "all"}, "biases"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"lora_alpha": float("inf")}, "JSON|lora_alpha"),
        ({"lora_alpha": -1}, "lora_alpha -1"),
        ({"r": 0}, "rank"),
        ({"r": 5}, "shape"),
        ({"base_model_name_or_path": "another/model"}, "base model differs"),
    ],
)
def test_configs_that_are_refused(tiny_base: Any, make_lora: Any, config: dict[str, Any], reason: str) -> None:
    base = tiny_base().base
    with pytest.raises(AdapterError, match=reason):
        check_adapter(make_lora(base, config=config), base, MAX_RANK)


def _first(tensors: dict[str, np.ndarray], side: str) -> str:
    return next(name for name in tensors if f"lora_{side}" in name)


def _nan(tensors: dict[str, np.ndarray]) -> None:
    tensors[_first(tensors, "A")][0, 0] = np.nan


def _infinite(tensors: dict[str, np.ndarray]) -> None:
    tensors[_first(tensors, "B")][-1, -1] = -np.inf


def _no_effect(tensors: dict[str, np.ndarray]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name][:] = 0


def _lonely(tensors: dict[str, np.ndarray]) -> None:
    del tensors[_first(tensors, "B")]


def _unknown_module(tensors: dict[str, np.ndarray]) -> None:
    name = _first(tensors, "A")
    tensors[name.replace("layers.0", "layers.9")] = tensors.pop(name)


def _embedding(tensors: dict[str, np.ndarray]) -> None:
    tensors["base_model.model.model.embed_tokens.lora_embedding_A"] = np.ones((4, 50), np.float32)


def _full_layer(tensors: dict[str, np.ndarray]) -> None:
    tensors["base_model.model.lm_head.weight"] = np.ones((50, 64), np.float32)


def _transposed(tensors: dict[str, np.ndarray]) -> None:
    name = _first(tensors, "A")
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def _integers(tensors: dict[str, np.ndarray]) -> None:
    name = _first(tensors, "A")
    tensors[name] = np.ones(tensors[name].shape, np.int64)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_nan, "NaN"),
        (_infinite, "infinite"),
        (_no_effect, "changes nothing"),
        (_lonely, "only one of its two"),
        (_unknown_module, "no linear layer"),
        (_embedding, "not a LoRA matrix"),
        (_full_layer, "not a LoRA matrix"),
        (_transposed, "the base needs"),
        (_integers, "only F32, F16 and BF16"),
    ],
)
def test_tensors_that_are_refused(
    tiny_base: Any, make_lora: Any, change: Callable[[dict[str, np.ndarray]], None], reason: str
) -> None:
    base = tiny_base().base
    with pytest.raises(AdapterError, match=reason):
        check_adapter(make_lora(base, tensors=change), base, MAX_RANK)


def test_rank_above_the_servers_limit_is_refused(tiny_base: Any, make_lora: Any) -> None:
    base = tiny_base().base
    with pytest.raises(AdapterError, match=r"above 3.*MULLE_VLLM_MAX_LORA_RANK"):
        check_adapter(make_lora(base, rank=4), base, 3)


@pytest.mark.parametrize("key", ["base_model", "base_sha256", "template_sha256"])
def test_adapters_of_another_base_are_refused(tiny_base: Any, make_lora: Any, key: str) -> None:
    base = tiny_base().base
    config = {"base_model_name_or_path": "other"} if key == "base_model" else {}
    folder = make_lora(base, config=config, manifest={key: "other"})
    with pytest.raises(AdapterError, match="train it again on this base"):
        check_adapter(folder, base, MAX_RANK)


@pytest.mark.parametrize(
    "name", ["adapter_model.bin", "training_args.bin", "optimizer.pt", "modeling_x.py", "model.pkl", "notes.txt"]
)
def test_foreign_files_are_refused(tiny_base: Any, make_lora: Any, name: str) -> None:
    base = tiny_base().base
    folder = make_lora(base)
    (folder / name).write_bytes(b"x")
    with pytest.raises(AdapterError, match="not allowed"):
        check_adapter(folder, base, MAX_RANK)


def test_links_folders_and_path_escapes_are_refused(tiny_base: Any, make_lora: Any, tmp_path: Path) -> None:
    base = tiny_base().base
    folder = make_lora(base, name="linked")
    weights = folder / "adapter_model.safetensors"
    outside = tmp_path / "outside.safetensors"
    weights.replace(outside)
    weights.symlink_to(outside)
    with pytest.raises(AdapterError, match="not a plain file"):
        check_adapter(folder, base, MAX_RANK)
    folder = make_lora(base, name="nested")
    (folder / "README.md").mkdir()
    with pytest.raises(AdapterError, match="not a plain file"):
        check_adapter(folder, base, MAX_RANK)
    folder = make_lora(base, name="escape", manifest={"files": {"../../etc/passwd": {"sha256": "0"}}})
    with pytest.raises(AdapterError):
        check_adapter(folder, base, MAX_RANK)


def test_changed_bytes_are_refused(tiny_base: Any, make_lora: Any) -> None:
    base = tiny_base().base
    folder = make_lora(base)
    weights = folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(AdapterError, match="sha256 differs"):
        check_adapter(folder, base, MAX_RANK)


@pytest.mark.parametrize("damage", ["truncated", "longer", "huge header", "overlap", "negative", "no tensors", "text"])
def test_damaged_safetensors_are_refused(tiny_base: Any, make_lora: Any, true_manifest: Any, damage: str) -> None:
    """Each with a true manifest, so that the parser and not the hash has to see it."""
    base = tiny_base().base
    folder = make_lora(base)
    weights = folder / "adapter_model.safetensors"
    data = weights.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    first = next(name for name in header if name != "__metadata__")
    if damage == "truncated":
        data = data[:-100]
    elif damage == "longer":
        data += b"\0" * 16
    elif damage == "huge header":
        data = struct.pack("<Q", 1 << 62) + data[8:]
    elif damage == "text":
        data = b"not safetensors"
    else:
        if damage == "overlap":
            header[first]["data_offsets"] = [0, header[first]["data_offsets"][1] - 4]
        elif damage == "negative":
            header[first]["shape"] = [-1, 4]
        else:
            header, data = {"__metadata__": {}}, data[: 8 + length]
        text = json.dumps(header).encode()
        data = struct.pack("<Q", len(text)) + text + data[8 + length :]
    weights.write_bytes(data)
    true_manifest(folder, base)
    with pytest.raises(AdapterError):
        check_adapter(folder, base, MAX_RANK)


def test_names_are_never_the_same() -> None:
    names = {new_adapter_name("abc") for _ in range(200)}
    assert len(names) == 200 and all(name.startswith("mulle-abc-") and name == name.lower() for name in names)


class FakeVllm:
    """vLLM's routes with chosen faults; log-probabilities are a function of model and token."""

    def __init__(self, offsets: dict[str, float], key: str = "k") -> None:
        self.offsets, self.key = offsets, key  # model -> added to -token/100
        self.models: dict[str, str] = {"base": "/models/base"}
        self.lies = False  # says 200 to a load and does nothing
        self.refuses = ""
        self.transport = httpx.MockTransport(self.answer)

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.headers.get("authorization") != f"Bearer {self.key}":
            return httpx.Response(401, json={"error": "Unauthorized"})
        body = json.loads(request.content) if request.content else {}
        if request.url.path == "/v1/models":
            listed = [
                {"id": name, "root": root, "parent": None if name == "base" else "base"}
                for name, root in self.models.items()
            ]
            return httpx.Response(200, json={"data": listed})
        if request.url.path == "/v1/load_lora_adapter":
            if self.refuses:
                return httpx.Response(400, json={"error": {"message": self.refuses}})
            if not self.lies:
                self.models[body["lora_name"]] = body["lora_path"]
            return httpx.Response(200, text="Success")
        if request.url.path == "/v1/unload_lora_adapter":
            if self.models.pop(body["lora_name"], None) is None:
                return httpx.Response(404, json={"error": {"message": "not found"}})
            return httpx.Response(200, text="Success")
        assert request.url.path == "/v1/completions" and body["prompt_logprobs"] == 0
        offset = self.offsets[body["model"]]
        rows: list[Any] = [None]
        rows += [{str(token): {"logprob": -token / 100 + offset}} for token in body["prompt"][1:]]
        return httpx.Response(200, json={"choices": [{"prompt_logprobs": rows}]})


URL = "http://127.0.0.1:1/v1"
REFERENCE: dict[str, Any] = {
    "tolerance": 0.1,
    "probes": [
        {
            "prompt_token_ids": [2, 5, 7],
            "completion_token_ids": tokens,
            "logprobs_tuned": [-token / 100 - 0.5 for token in tokens],
            "logprobs_base": [-token / 100 - 1.5 for token in tokens],
        }
        for tokens in ([10, 20, 30], [40], [50, 60])
    ],
}


async def _probe(server: FakeVllm, model: str, **options: Any) -> Any:
    return await probe(URL, "k", model, "base", REFERENCE, transport=server.transport, **options)


def _run(awaitable: Any) -> Any:
    import asyncio

    return asyncio.run(awaitable)


def test_load_list_unload(tmp_path: Path) -> None:
    server = FakeVllm({})
    (tmp_path / "adapter_config.json").write_text("{}")

    async def story() -> None:
        await load_adapter(URL, "k", "mulle-a-1", tmp_path, transport=server.transport)
        models = await list_models("http://127.0.0.1:1", "k", transport=server.transport)
        assert [(model.name, model.parent) for model in models] == [("base", None), ("mulle-a-1", "base")]
        with pytest.raises(AdapterError, match="never reused"):
            await load_adapter(URL, "k", "mulle-a-1", tmp_path, transport=server.transport)
        assert await unload_adapter(URL, "k", "mulle-a-1", transport=server.transport)
        assert not await unload_adapter(URL, "k", "mulle-a-1", transport=server.transport)
        with pytest.raises(AdapterError, match="absolute path"):
            await load_adapter(URL, "k", "mulle-a-2", Path("adapters/a"), transport=server.transport)
        with pytest.raises(AdapterError, match="absolute path"):
            await load_adapter(URL, "k", "mulle-a-2", tmp_path / "none", transport=server.transport)
        server.refuses = "LoRA rank 64 is greater than max_lora_rank 16."
        with pytest.raises(AdapterError, match="rank 64 is greater"):
            await load_adapter(URL, "k", "mulle-a-3", tmp_path, transport=server.transport)
        server.refuses, server.lies = "", True
        with pytest.raises(AdapterError, match="does not list it"):
            await load_adapter(URL, "k", "mulle-a-4", tmp_path, transport=server.transport)
        with pytest.raises(BackendError, match="API key"):
            await list_models(URL, "wrong", transport=server.transport)

    _run(story())


def test_servers_that_are_gone_or_slow_are_typed_errors() -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    with pytest.raises(BackendError, match="can't be reached"):
        _run(list_models(URL, transport=httpx.MockTransport(gone)))
    with pytest.raises(BackendTimeout):
        _run(list_models(URL, transport=httpx.MockTransport(slow)))
    for body in (b"<html>", b'{"data": 3}', b"[]"):
        transport = httpx.MockTransport(lambda request, body=body: httpx.Response(200, content=body))
        with pytest.raises(BackendError, match="something else"):
            _run(list_models(URL, transport=transport))


def test_teacher_forcing_returns_one_number_a_completion_token() -> None:
    server = FakeVllm({"a": -0.25})
    got = _run(teacher_forced_logprobs(URL, "k", "a", [2, 5], [10, 20], transport=server.transport))
    assert got == pytest.approx([-0.35, -0.45])
    with pytest.raises(AdapterError):
        _run(teacher_forced_logprobs(URL, "k", "a", [2], [], transport=server.transport))
    short = httpx.MockTransport(lambda request: httpx.Response(200, json={"choices": [{"prompt_logprobs": [None]}]}))
    with pytest.raises(BackendError, match="no usable"):
        _run(teacher_forced_logprobs(URL, "k", "a", [2, 5], [10], transport=short))


def test_probe_passes_the_right_adapter_only() -> None:
    server = FakeVllm({"base": -1.5, "good": -0.52, "no-op": -1.5, "wrong": -0.9, "inverse": -2.5})
    good = _run(_probe(server, "good"))
    assert good.passed and good.tokens == 6
    assert good.distance_tuned == pytest.approx(0.02) and good.effect == pytest.approx(0.98)
    good.require()
    for name in ("no-op", "wrong", "inverse"):
        report = _run(_probe(server, name))
        assert not report.passed and "wrong, stale or damaged" in report.reason
        with pytest.raises(AdapterError, match=f"{name} must not serve"):
            report.require()
    assert not _run(_probe(server, "good", tolerance=0.01)).passed
    assert _run(_probe(server, "good", max_probes=1)).tokens == 3


def test_probe_sees_a_base_that_moved_and_a_reference_that_proves_nothing() -> None:
    server = FakeVllm({"base": -0.5, "good": -0.5})  # what serves as base is the tuned model already
    assert "not applied" in _run(_probe(server, "good")).reason
    weak = {**REFERENCE, "tolerance": 2.0}
    live = [item["logprobs_tuned"] for item in REFERENCE["probes"]]
    base = [item["logprobs_base"] for item in REFERENCE["probes"]]
    assert judge("m", REFERENCE, live, base, 0.1).passed
    assert "proves nothing" in judge("m", weak, live, base, 2.0).reason
    broken = [[float("nan")] * len(item) for item in live]
    assert not judge("m", REFERENCE, broken, base, 0.1).passed


def test_references_are_checked(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=r"reference\.json"):
        read_reference(tmp_path)
    path = tmp_path / "reference.json"
    write_json_atomic(path, REFERENCE)
    assert len(read_reference(tmp_path)["probes"]) == 3
    for broken in (
        {"tolerance": 0.1, "probes": []},
        {"tolerance": 0, "probes": REFERENCE["probes"]},
        {"probes": REFERENCE["probes"]},
        {"tolerance": 0.1, "probes": [{**REFERENCE["probes"][0], "logprobs_base": [1.0]}]},
    ):
        write_json_atomic(path, broken)
        with pytest.raises(AdapterError):
            read_reference(tmp_path)
