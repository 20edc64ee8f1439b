"""Training for real: a tiny random Gemma for the rules, the prepared base for a few steps of the whole recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.steps.finetune import run_finetune
from flows.steps.train import run
from flows.steps.train_config import TrainConfig
from lake.errors import DatasetError, ModelMissingError, TrainingError
from lake.files import read_json, sha256_bytes, sha256_file, write_json_atomic
from lake.house_style import render
from lake.registry import Registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:(transformers|peft|trl|torch|accelerate).*"),
    pytest.mark.filterwarnings("ignore::UserWarning:(transformers|peft|trl|torch|accelerate).*"),
]
TEMPLATE = Path("configs/chat_template.jinja")
REAL_BASE = Path("models/base/gemma3-270m/hf")
QUICK = TrainConfig(
    method="lora", rank=4, alpha=8, learning_rate=1e-2, max_steps=4, batch_size=2, max_length=256,
    compute_dtype="float32", scheduler="constant", warmup_share=0.0, eval_steps=2, probes=2, threads=1,
)  # fmt: skip


def rows(count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for i in range(count):
        prompt = f"질문: 도구 {i} 추천\n\n관련 정보:\n1. Tool{i} (https://t{i}.example): 그림\n\n답변: "
        answer = render("ko", f"Tool{i}", "그림을 그립니다.", f"https://t{i}.example")
        found.append(
            {
                "prompt": [{"role": "user", "content": prompt}],
                "completion": [{"role": "assistant", "content": answer}],
            }
        )
    return found


def write_dataset(folder: Path, train: list[dict[str, Any]], holdout: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    files: dict[str, Any] = {}
    for name, part in (("train.chat.jsonl", train), ("holdout.chat.jsonl", holdout)):
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part).encode()
        (folder / name).write_bytes(data)
        files[name] = {"sha256": sha256_bytes(data), "bytes": len(data)}
    inputs = {"template_sha256": sha256_file(TEMPLATE)}
    write_json_atomic(folder / "manifest.json", {"version": "test", "inputs": inputs, "files": files})
    return folder


def make_base(folder: Path, template: str, damage: bool = False) -> Path:
    """A random two-layer Gemma 3 with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedTokenizerFast

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    vocab = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = template
    torch.manual_seed(1)
    config = Gemma3TextConfig(
        vocab_size=len(vocab), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=1024, sliding_window=64,
        bos_token_id=2, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config)
    if damage:
        model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(folder / "hf")
    tokenizer.save_pretrained(folder / "hf")
    (folder / "hf" / "chat_template.jinja").write_text(template)
    manifest = {"name": folder.name, "licence": "none", "weights_sha256": "w" * 64}
    write_json_atomic(folder / "manifest.json", manifest)
    return folder / "hf"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "tiny", TEMPLATE.read_text())


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "ds", rows(8), rows(10)[8:])


def with_values(**changes: Any) -> TrainConfig:
    return TrainConfig(**{**QUICK.to_dict(), **changes})


def test_a_run_writes_a_whole_adapter_that_peft_loads_and_that_changes_the_model(
    tmp_path: Path, base: Path, dataset: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    metrics = run(QUICK, dataset, base, out, tmp_path / "progress.jsonl")
    assert metrics["steps"] == 4 and [row["step"] for row in metrics["history"]] == [1, 2, 3, 4]
    assert [row["step"] for row in metrics["eval_history"]] == [0, 2, 4]
    assert metrics["best_loss"] < metrics["eval_history"][0]["loss"]
    assert metrics["best_loss"] == min(row["loss"] for row in metrics["eval_history"][1:])
    assert (metrics["rows_train"], metrics["rows_holdout"], metrics["truncated"]) == (8, 2, 0)
    assert '"done":4' in (tmp_path / "progress.jsonl").read_text()
    assert {file.name for file in out.iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "manifest.json", "README.md", "metrics.json",
        "training_config.json", "environment.json", "reference.json",
    }  # fmt: skip
    for file in out.iterdir():  # nobody's folders travel with an adapter
        assert str(tmp_path).encode() not in file.read_bytes() and str(base).encode() not in file.read_bytes()
    assert read_json(out / "adapter_config.json")["base_model_name_or_path"] == "tiny"
    assert "modules_to_save" not in read_json(out / "manifest.json")
    entry = Registry(tmp_path / "models").add(out)
    assert entry.base_model == "tiny" and entry.rank == 4 and entry.dataset_version == "test"

    reference = read_json(entry.path / "reference.json")
    assert 0 < reference["tolerance"] < reference["distance"] and len(reference["probes"]) == 2
    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(entry.path))
    probe = reference["probes"][0]
    ids = torch.tensor([probe["prompt_token_ids"] + probe["completion_token_ids"]])
    start = len(probe["prompt_token_ids"])
    with torch.no_grad():
        log_p = torch.log_softmax(model(input_ids=ids).logits[0, start - 1 : -1].float(), -1)
    live = log_p.gather(-1, ids[0, start:, None])[:, 0].tolist()
    assert live == pytest.approx(probe["logprobs_tuned"], abs=1e-4)
    assert live != pytest.approx(probe["logprobs_base"], abs=1e-2)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, base: Path, dataset: Path) -> None:
    for name in ("one", "two"):
        run(QUICK, dataset, base, tmp_path / name, None)
    run(with_values(seed=18), dataset, base, tmp_path / "other", None)
    one, two, other = (sha256_file(tmp_path / n / "adapter_model.safetensors") for n in ("one", "two", "other"))
    assert one == two != other


def test_scoring_completions_only_gives_the_loss_and_gradient_of_all_logits(base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from flows.steps.train_model import score_completions_only

    ids = torch.arange(6, 46).reshape(2, 20)
    labels = ids.clone()
    labels[0, :12] = -100
    labels[1, :15] = -100
    plain: Any = AutoModelForCausalLM.from_pretrained(base)
    expected = plain(input_ids=ids, labels=labels).loss
    expected.backward()
    scored: Any = AutoModelForCausalLM.from_pretrained(base)
    assert score_completions_only(scored)
    found = scored(input_ids=ids, labels=labels, fused_lm_head=True)
    found.loss.backward()
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(found.label_mask.sum()) == 8 + 5
    name = "model.layers.0.self_attn.q_proj.weight"
    gradients = [dict(model.named_parameters())[name].grad for model in (plain, scored)]
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
    assert scored(input_ids=ids).logits.shape == (2, 20, plain.config.vocab_size)


def test_an_evaluation_does_not_spoil_the_gradients_of_four_bit_layers() -> None:
    """bitsandbytes repacks 4-bit weights in an evaluation on some CPUs; training after it must not notice."""
    import torch
    from bitsandbytes.nn import Linear4bit

    from flows.steps.train_model import keep_weights_unpacked

    torch.manual_seed(0)
    layer: Any = Linear4bit(128, 64, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
    model = torch.nn.Sequential(layer).to("cpu")
    assert keep_weights_unpacked(model) == 1
    x = torch.randn(4, 128)

    def gradient() -> torch.Tensor:
        model.train()
        given = x.clone().requires_grad_()
        model(given).square().sum().backward()
        assert given.grad is not None
        return given.grad

    before = gradient()
    model.eval()
    with torch.no_grad():
        model(x)
    after = gradient()
    assert torch.equal(before, after) and before.abs().max() > 0


@pytest.mark.parametrize("holdout", [0, 2])
def test_a_nan_ends_the_run_without_an_adapter(tmp_path: Path, holdout: int) -> None:
    dataset = write_dataset(tmp_path / "ds", rows(4), rows(8)[8 - holdout :] if holdout else [])
    broken = make_base(tmp_path / "broken", TEMPLATE.read_text(), damage=True)
    with pytest.raises(TrainingError, match="nan"):
        run(QUICK, dataset, broken, tmp_path / "models" / "out", None)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_row_that_is_too_long_is_refused_and_counted(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = rows(1)[0]
    long["prompt"][0]["content"] = "가" * 300 + long["prompt"][0]["content"]
    dataset = write_dataset(tmp_path / "long", [*rows(6), long], rows(8)[6:])
    metrics = run(with_values(max_length=300), dataset, base, tmp_path / "out", None)
    assert metrics["refused_too_long"] == {"train": 1, "holdout": 0} and metrics["rows_train"] == 6
    assert metrics["longest_row_tokens"] > 900 and "rows 7" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="max_length"):
        run(with_values(max_length=32), dataset, base, tmp_path / "none", None)


def test_the_time_budget_ends_the_run_at_a_whole_step(tmp_path: Path, base: Path, dataset: Path) -> None:
    config = with_values(max_steps=0, epochs=10_000, max_seconds=2.0, eval_steps=0)
    metrics = run(config, dataset, base, tmp_path / "out", None)
    assert metrics["stopped_by"] == "max_seconds" and 1 <= metrics["steps"] < 40_000
    assert metrics["train_seconds"] < 8  # 2 s and a generous share for a busy machine
    rates = [row["learning_rate"] for row in metrics["history"]]
    assert set(rates) == {QUICK.learning_rate}


def test_templates_that_would_train_on_another_prompt_are_refused(tmp_path: Path, dataset: Path) -> None:
    (dataset / "manifest.json").write_text((dataset / "manifest.json").read_text().replace(sha256_file(TEMPLATE), ""))
    good = TEMPLATE.read_text()
    doubled = make_base(tmp_path / "doubled", good.replace("{{- bos_token -}}", "{{- bos_token + bos_token -}}"))
    with pytest.raises(DatasetError, match="exactly once"):
        run(QUICK, dataset, doubled, tmp_path / "out", None)
    other = make_base(tmp_path / "other", good.replace("{{- '<start_of_turn>model\\n' -}}", "{{- 'answer:' -}}"))
    with pytest.raises(DatasetError, match="not a prefix"):
        run(QUICK, dataset, other, tmp_path / "out", None)


def test_a_dataset_of_another_template_or_changed_since_is_refused(tmp_path: Path, base: Path, dataset: Path) -> None:
    other = make_base(tmp_path / "other", TEMPLATE.read_text() + "{# #}")
    with pytest.raises(DatasetError, match="another chat template"):
        run(QUICK, dataset, other, tmp_path / "out", None)
    (dataset / "train.chat.jsonl").write_text("{}\n")
    with pytest.raises(DatasetError, match="sha256"):
        run(QUICK, dataset, base, tmp_path / "out", None)


def test_a_folder_that_is_no_base_is_named(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(ModelMissingError, match="make models"):
        run(QUICK, dataset, tmp_path, tmp_path / "out", None)


def _config_file(path: Path, config: TrainConfig) -> Path:
    lines = [
        f"{key} = {json.dumps(list(value) if isinstance(value, tuple) else value)}"
        for key, value in config.to_dict().items()
    ]
    path.write_text("\n".join(lines))
    return path


def test_finetune_registers_a_candidate_and_shows_the_trainers_words_when_it_fails(
    tmp_path: Path, base: Path, dataset: Path
) -> None:
    said: list[str] = []
    common: dict[str, Any] = {
        "config_file": _config_file(tmp_path / "c.toml", QUICK),
        "dataset_dir": dataset,
        "models_dir": tmp_path / "models",
        "log_file": tmp_path / "run" / "train.log",
        "progress_file": tmp_path / "run" / "progress.jsonl",
        "template_file": TEMPLATE,
        "log": said.append,
    }
    report = run_finetune(hf_dir=base, **common)
    registry = Registry(tmp_path / "models")
    assert [entry.state for entry in registry.list()] == ["candidate"] and registry.champion() is None
    assert report["adapter_id"] == registry.list()[0].adapter_id and report["steps"] == 4
    assert json.loads(json.dumps(report)) == report and "history" not in report and said
    assert [path.name for path in registry.adapters_dir.iterdir()] == [report["adapter_id"]]

    broken = make_base(tmp_path / "broken", TEMPLATE.read_text(), damage=True)
    with pytest.raises(TrainingError, match="nan at step"):
        run_finetune(hf_dir=broken, **common)
    assert [path.name for path in registry.adapters_dir.iterdir()] == [report["adapter_id"]]
    odd = make_base(tmp_path / "odd", TEMPLATE.read_text() + "{# #}")
    with pytest.raises(ModelMissingError, match="sha256 differs"):
        run_finetune(hf_dir=odd, **common)


def test_the_whole_recipe_on_the_real_base(tmp_path: Path) -> None:
    """NF4 with double quantisation, all linear layers, measured dtype: two steps of the demo's recipe."""
    dataset = write_dataset(tmp_path / "ds", rows(8), rows(10)[8:])
    config = TrainConfig(max_steps=2, eval_steps=0, probes=2, warmup_share=0.0, scheduler="constant")
    report = run_finetune(
        config_file=_config_file(tmp_path / "c.toml", config),
        dataset_dir=dataset,
        hf_dir=REAL_BASE,
        models_dir=tmp_path / "models",
        log_file=tmp_path / "train.log",
        progress_file=None,
        template_file=TEMPLATE,
        log=lambda line: None,
    )
    assert report["steps"] == 2 and report["quantisation"] == "nf4 + double quantisation"
    assert set(report["dtype_gflops"]) == {"float32", "bfloat16"} and report["dtype"] in report["dtype_gflops"]
    assert report["reference"]["separable"] and report["peak_memory_bytes"] < 8e9
    assert report["best_loss"] < read_json(Path(report["adapter_path"]) / "metrics.json")["eval_history"][0]["loss"]
    modules = read_json(Path(report["adapter_path"]) / "adapter_config.json")["target_modules"]
    assert modules == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
