"""The merge is W + scale * B @ A, and lies in the GGUF as llama.cpp wants it; the real one is served and differs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import pytest
from safetensors.numpy import load_file

from lake.errors import AdapterError, DiskSpaceError, SetupError
from lake.files import read_json, sha256_file
from serving import gguf_export, processes
from serving.adapter_checks import check_adapter
from serving.base_models import BaseModel, prepare_own
from serving.gguf_export import export
from serving.llamacpp_server import argument_vector
from serving.merge import Merged, write_merged_folder
from serving.weights import Weights

PREFIX = "model.layers.0."


def _merged(tensors: dict[str, np.ndarray], adapter: Path, name: str, scale: float = 2.0) -> np.ndarray:
    """The arithmetic, written down once more and independently."""
    lora = load_file(adapter / "adapter_model.safetensors")
    module = name.removesuffix(".weight")
    if f"base_model.model.{module}.lora_A.weight" not in lora:
        return tensors[name]
    a, b = (lora[f"base_model.model.{module}.lora_{side}.weight"].astype(np.float64) for side in "AB")
    return (tensors[name].astype(np.float64) + scale * np.einsum("or,ri->oi", b, a)).astype(np.float32)


def _tensors(path: Path) -> dict[str, np.ndarray]:
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(path).tensors
    }


@pytest.mark.parametrize(("quant", "tolerance"), [("f16", 2e-3), ("q8_0", 2e-2)])
def test_graft_of_a_gemma(tiny_base: Any, make_lora: Any, tmp_path: Path, quant: str, tolerance: float) -> None:
    tiny = tiny_base("gemma3")
    adapter, out = make_lora(tiny.base), tmp_path / "out" / "tuned.gguf"
    manifest = export(adapter, tiny.base, out, quant)
    got = _tensors(out)
    for name, short in (
        ("self_attn.q_proj.weight", "attn_q"),
        ("self_attn.k_proj.weight", "attn_k"),
        ("mlp.down_proj.weight", "ffn_down"),
    ):
        want = _merged(tiny.tensors, adapter, PREFIX + name)
        assert np.abs(want - tiny.tensors[PREFIX + name]).max() > 0.1  # the adapter matters
        np.testing.assert_allclose(got[f"blk.0.{short}.weight"], want, atol=tolerance * np.abs(want).max())
    embedding = tiny.tensors["model.embed_tokens.weight"]
    np.testing.assert_allclose(got["token_embd.weight"], embedding, atol=tolerance * np.abs(embedding).max())
    # Gemma's norms are stored with 1 added, in float32.
    np.testing.assert_array_equal(
        got["blk.0.attn_norm.weight"], tiny.tensors[PREFIX + "input_layernorm.weight"] + np.float32(1)
    )
    np.testing.assert_array_equal(got["output_norm.weight"], tiny.tensors["model.norm.weight"] + np.float32(1))
    np.testing.assert_array_equal(got["rope_freqs.weight"], np.arange(8))

    reader, source = gguf.GGUFReader(out), gguf.GGUFReader(tiny.base.gguf_path)
    for name, field in source.fields.items():
        if not name.startswith("GGUF.") and name != "general.file_type":
            assert reader.fields[name].contents() == field.contents(), name
    assert reader.fields["general.file_type"].contents() == {"f16": 1, "q8_0": 7}[quant]
    assert reader.fields["general.finetune"].contents() == adapter.name
    assert manifest["sha256"] == sha256_file(out) and manifest["quant"] == quant
    assert manifest["adapter_id"] == adapter.name and manifest["merged_modules"] == 7
    assert read_json(out.with_suffix(".json")) == manifest
    assert sorted(path.name for path in out.parent.iterdir()) == ["tuned.gguf", "tuned.json"]


def _llama_cpp_permute(weights: np.ndarray, heads: int, kv_heads: int | None) -> np.ndarray:
    """As in llama.cpp's converter (conversion/llama.py, `permute`)."""
    if kv_heads is not None and heads != kv_heads:
        heads = kv_heads
    shape = (heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return weights.reshape(shape).swapaxes(1, 2).reshape(weights.shape)


def test_graft_of_a_llama_regroups_q_and_k_only(tiny_base: Any, make_lora: Any, tmp_path: Path) -> None:
    tiny = tiny_base("llama")
    adapter = make_lora(tiny.base)
    export(adapter, tiny.base, tmp_path / "tuned.gguf", "f16")
    got = _tensors(tmp_path / "tuned.gguf")
    for name, short, kv_heads in (("q", "attn_q", None), ("k", "attn_k", 2)):
        want = _llama_cpp_permute(_merged(tiny.tensors, adapter, f"{PREFIX}self_attn.{name}_proj.weight"), 4, kv_heads)
        np.testing.assert_allclose(got[f"blk.0.{short}.weight"], want, atol=5e-3)
    value = _merged(tiny.tensors, adapter, f"{PREFIX}self_attn.v_proj.weight")
    np.testing.assert_allclose(got["blk.0.attn_v.weight"], value, atol=5e-3)
    np.testing.assert_array_equal(got["output_norm.weight"], tiny.tensors["model.norm.weight"])


def test_merge_in_small_blocks_is_the_same(
    tiny_base: Any, make_lora: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_base()
    adapter = make_lora(tiny.base, config={"use_rslora": True})
    facts = check_adapter(adapter, tiny.base, 16)
    name = PREFIX + "mlp.up_proj.weight"
    whole = Merged(Weights(tiny.base.hf_dir), facts).tensor(name)
    monkeypatch.setattr("serving.merge.BLOCK_VALUES", 7 * 64)
    blocks = list(Merged(Weights(tiny.base.hf_dir), facts).blocks(name))
    assert len(blocks) > 10 and [begin for begin, _ in blocks][:3] == [0, 7, 14]
    np.testing.assert_allclose(np.concatenate([block for _, block in blocks]), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole, _merged(tiny.tensors, adapter, name, scale=4.0), rtol=1e-5, atol=1e-5)


def test_merged_folder_keeps_formats_and_files(tiny_base: Any, make_lora: Any, tmp_path: Path) -> None:
    tiny = tiny_base()
    adapter = make_lora(tiny.base)
    merged = Merged(Weights(tiny.base.hf_dir), check_adapter(adapter, tiny.base, 16))
    write_merged_folder(merged, tiny.base.hf_dir, tmp_path / "merged")
    got = load_file(tmp_path / "merged" / "model.safetensors")
    assert sorted(got) == sorted(tiny.tensors)
    for name in got:
        np.testing.assert_allclose(got[name], _merged(tiny.tensors, adapter, name), rtol=1e-5, atol=1e-5)
    assert (tmp_path / "merged" / "config.json").is_file()


def test_same_inputs_same_bytes_and_faults_leave_the_old_file(
    tiny_base: Any, make_lora: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = tiny_base()
    adapter, out = make_lora(tiny.base), tmp_path / "out" / "tuned.gguf"
    first = export(adapter, tiny.base, out)["sha256"]
    assert export(adapter, tiny.base, out)["sha256"] == first

    with pytest.raises(SetupError, match="q8_0"):
        export(adapter, tiny.base, out, "q4_k_m")
    nan = make_lora(tiny.base, name="nan", tensors=lambda found: next(iter(found.values())).fill(np.nan))
    with pytest.raises(AdapterError, match="NaN"):
        export(nan, tiny.base, out)
    unknown = BaseModel(**{name: getattr(tiny.base, name) for name in BaseModel.__slots__} | {"architecture": "mamba"})
    with pytest.raises(SetupError, match="can't be grafted"):
        export(adapter, unknown, out)
    monkeypatch.setattr(gguf_export, "_BYTES_A_VALUE", {"q8_0": 1e15})
    with pytest.raises(DiskSpaceError, match=r"tuned\.gguf"):
        export(adapter, tiny.base, out)
    monkeypatch.undo()

    def fails(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_export, "_encode", fails)
    with pytest.raises(OSError, match="No space"):
        export(adapter, tiny.base, out)
    assert sha256_file(out) == first
    assert sorted(path.name for path in out.parent.iterdir()) == ["tuned.gguf", "tuned.json"]


@contextmanager
def _served(model: Path, tmp_path: Path) -> Iterator[str]:
    port = processes.free_port()
    argv = argument_vector(Path(sys.executable), model, "tuned", port, 512, 1, 0)
    processes.start(
        "llamacpp", argv, os.environ, tmp_path, tmp_path / "ll.log", f"http://127.0.0.1:{port}/health", timeout_s=60
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        processes.stop("llamacpp", tmp_path)


def _first_logprobs(url: str) -> dict[int, float]:
    """The ten likeliest first tokens of one answer."""
    body = {"prompt": [2, 105, 2364, 107, 239307, 238004, 106, 107], "n_predict": 1, "temperature": 0, "n_probs": 10}
    answer = httpx.post(f"{url}/completion", json=body, timeout=60, trust_env=False).json()
    return {row["id"]: row["logprob"] for row in answer["completion_probabilities"][0]["top_logprobs"]}


@pytest.mark.slow
def test_the_real_base_with_a_random_adapter_is_served_and_differs(
    real_base: BaseModel, make_lora: Any, tmp_path: Path
) -> None:
    """llama.cpp on the grafted f16 file agrees with transformers on the merged weights, and not with the base."""
    import torch
    from transformers import AutoModelForCausalLM

    adapter, out = make_lora(real_base, rank=16, size=0.01), tmp_path / "tuned.gguf"
    export(adapter, real_base, out, "f16")
    with _served(out, tmp_path) as url:
        tuned = _first_logprobs(url)
    with _served(real_base.gguf_path, tmp_path) as url:
        plain = _first_logprobs(url)

    model: Any = AutoModelForCausalLM.from_pretrained(real_base.hf_dir, dtype=torch.float32)
    facts = check_adapter(adapter, real_base, 16)
    merged = Merged(Weights(real_base.hf_dir), facts)
    with torch.no_grad():
        for module in facts.modules:
            model.get_submodule(module).weight.copy_(torch.from_numpy(merged.tensor(f"{module}.weight")))
        logits = model(torch.tensor([[2, 105, 2364, 107, 239307, 238004, 106, 107]])).logits[0, -1]
    want = torch.log_softmax(logits, dim=-1)
    assert max(abs(value - float(want[token])) for token, value in tuned.items()) < 0.1
    assert max(abs(value - float(want[token])) for token, value in plain.items()) > 0.5


@pytest.mark.slow
def test_a_users_own_checkpoint_goes_through_the_converter(make_lora: Any, tmp_path: Path) -> None:
    """A real (tiny, random) Llama with a real tokenizer: prepared, merged, converted, served."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),  # with ByteLevel: llama.cpp's "smollm"
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["질문과 답변, question and answer 123 " * 5], trainer)
    folder = tmp_path / "mine"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    fast.chat_template = "{% for m in messages %}<s>{{ m['content'] }}{% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1, dtype="bfloat16",
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)

    models_dir = tmp_path / "models"
    models_dir.mkdir()
    from lake.settings import LakeSettings
    from serving.converter import prepare_converter

    prepare_converter(LakeSettings().models_dir)
    (models_dir / "converter").symlink_to((LakeSettings().models_dir / "converter").resolve())
    with pytest.MonkeyPatch.context() as patch:
        # A random vocabulary has no known fingerprint; the converter is told which pre-tokenizer it has.
        patch.setenv("PYTHONPATH", _pretokenizer_patch(tmp_path))
        base = prepare_own(models_dir, folder, "mine", "my own", "f16")
        assert base.kind == "convert" and base.architecture == "llama"
        adapter = make_lora(base, rank=4, size=0.3)
        manifest = export(adapter, base, tmp_path / "out" / "mine.gguf", "f16")
    assert manifest["method"] == "convert"
    got, before = _tensors(tmp_path / "out" / "mine.gguf"), _tensors(base.gguf_path)
    merged = Merged(Weights(base.hf_dir), check_adapter(adapter, base, 16))
    want = _llama_cpp_permute(merged.tensor(PREFIX + "self_attn.q_proj.weight"), 4, None)
    np.testing.assert_allclose(got["blk.0.attn_q.weight"], want, atol=4e-3)
    assert np.abs(got["blk.0.attn_q.weight"] - before["blk.0.attn_q.weight"]).max() > 0.05
    reader = gguf.GGUFReader(tmp_path / "out" / "mine.gguf")
    assert reader.fields["tokenizer.chat_template"].contents() == base.template_path.read_text()
    with _served(tmp_path / "out" / "mine.gguf", tmp_path) as url:
        body = {"messages": [{"role": "user", "content": "질문"}], "max_tokens": 4}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
        assert answer.status_code == 200
    assert json.loads((base.root / "manifest.json").read_text())["licence"] == "my own"


def _pretokenizer_patch(tmp_path: Path) -> str:
    """A sitecustomize that answers the converter's fingerprint question for the tokenizer trained above."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys, importlib.abc, importlib.machinery\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name != 'conversion.base':\n            return None\n"
        "        spec = importlib.machinery.PathFinder.find_spec(name, path)\n"
        "        run = spec.loader.exec_module\n"
        "        def exec_module(module):\n"
        "            run(module)\n"
        "            module.TextModel.get_vocab_base_pre = lambda self, tokenizer: 'smollm'\n"
        "        spec.loader.exec_module = exec_module\n"
        "        return spec\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    return str(folder)
