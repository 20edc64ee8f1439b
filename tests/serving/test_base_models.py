"""The prepared base is whole, idempotent, with one template in both forms; a user's own folder is checked first."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from lake.errors import ModelMissingError, SetupError
from lake.files import read_json, sha256_bytes, sha256_file
from serving import base_models
from serving.base_checkpoint import check_folder, own_template, take_folder
from serving.base_models import (
    CHAT_TEMPLATE_FILE,
    BaseModel,
    load_base,
    prepare_base,
    prepare_embedder,
    prepare_own,
    verify_base,
)
from serving.cli import exit_code
from serving.converter import convert, matches_manifest, unpack

KOREAN = [{"role": "user", "content": "질문: 협업 도구 추천해줘\n\n관련 정보:\n1. Jira\n\n답변: "}]


@pytest.mark.slow
def test_the_real_base_is_whole_and_carries_one_template(models_dir: Path, real_base: BaseModel) -> None:
    assert verify_base(models_dir, real_base.name)
    template = CHAT_TEMPLATE_FILE.read_text(encoding="utf-8")
    assert real_base.template_path.read_text(encoding="utf-8") == template
    assert real_base.template_sha256 == sha256_bytes(template.encode())
    reader = gguf.GGUFReader(real_base.gguf_path)
    assert reader.fields["tokenizer.chat_template"].contents() == template
    assert reader.fields["tokenizer.ggml.eos_token_id"].contents() == 1 == real_base.eos_token_id
    tokens = reader.fields["tokenizer.ggml.tokens"]
    assert bytes(tokens.parts[tokens.data[1]]) == b"<eos>"
    assert read_json(real_base.hf_dir / "config.json")["eos_token_id"] == 1
    manifest = read_json(real_base.root / "manifest.json")
    assert manifest["licence"] == "Gemma Terms of Use" and manifest["licence_url"].startswith("https://")
    assert (real_base.root / "GEMMA_TERMS.html").stat().st_size > 10_000
    assert len(manifest["source"]["packages"]) == 5
    assert not any(path.suffix in (".bin", ".pt", ".py") for path in real_base.root.rglob("*"))


def test_a_second_run_changes_nothing(models_dir: Path, real_base: BaseModel) -> None:
    before = {path: path.stat().st_mtime_ns for path in real_base.root.rglob("*")}
    assert prepare_base(models_dir) == real_base
    assert {path: path.stat().st_mtime_ns for path in real_base.root.rglob("*")} == before


def test_the_tokenizer_prepends_bos_once_and_ends_answers_with_eos(real_base: BaseModel) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(real_base.hf_dir)
    prompt = list(tokenizer.apply_chat_template(KOREAN, add_generation_prompt=True)["input_ids"])
    assert prompt[:3] == [2, 105, 2364] and prompt.count(2) == 1
    assert tokenizer.decode(prompt).endswith("답변: <end_of_turn>\n<start_of_turn>model\n")
    whole = list(tokenizer.apply_chat_template([*KOREAN, {"role": "assistant", "content": "추천: Jira"}])["input_ids"])
    assert whole[: len(prompt)] == prompt  # the prompt of serving is a prefix of the training row
    assert whole[-1] == 1
    system = tokenizer.apply_chat_template([{"role": "system", "content": "짧게."}, *KOREAN], tokenize=False)
    assert system.startswith("<bos><start_of_turn>user\n짧게.\n\n질문:")
    with pytest.raises(Exception, match="Only system"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}])


def test_missing_and_changed_bases_are_named(tmp_path: Path, real_base: BaseModel) -> None:
    with pytest.raises(ModelMissingError, match=r"not prepared.*serving.base_models prepare"):
        load_base(tmp_path, "gemma3-270m")
    with pytest.raises(ModelMissingError, match="--from PATH"):
        prepare_base(tmp_path, "llama-7b")
    copy = tmp_path / "base" / "mine"
    copy.mkdir(parents=True)
    for name in ("manifest.json", "NOTICE.md"):
        (copy / name).write_bytes((real_base.root / name).read_bytes())
    assert not verify_base(tmp_path, "mine")
    with pytest.raises(ModelMissingError, match="were changed"):
        prepare_base(tmp_path, "mine")


def test_damaged_packages_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_models, "_GGUF_SHA256", "0" * 64)
    with pytest.raises(ModelMissingError, match="sha256"):
        prepare_base(tmp_path)
    monkeypatch.setattr(base_models, "_PARTS", ("no_such_package",))
    with pytest.raises(ModelMissingError, match=r"no_such_package is not installed.*make setup"):
        prepare_base(tmp_path)
    assert [path.name for path in (tmp_path / "base").iterdir()] == [".prepare.lock"]


def test_the_encoder_is_recorded(tmp_path: Path) -> None:
    manifest = prepare_embedder(tmp_path)
    assert manifest == read_json(tmp_path / "embedder" / "manifest.json") == prepare_embedder(tmp_path)
    assert len(manifest["files"]["e5-small-q4.bin"]) == 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The least that a checkpoint folder needs."""
    made = tmp_path / "mine"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    (made / "tokenizer.json").write_text("{}")
    save_file({"a": np.ones(2, np.float32)}, made / "model.safetensors")
    return made


def test_a_sound_folder_is_taken_and_the_rest_left_out(folder: Path, tmp_path: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_mine.py").write_text("import os")
    assert take_folder(folder, tmp_path / "hf", "ours") == ["modeling_mine.py", "pytorch_model.bin"]
    assert sorted(path.name for path in (tmp_path / "hf").iterdir()) == [
        "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert (tmp_path / "hf" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert sha256_file(tmp_path / "hf" / "model.safetensors") == sha256_file(folder / "model.safetensors")


def test_templates_are_the_folders_own_or_gemmas_but_never_guessed(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").write_text("from the file")
    assert own_template(folder) == "from the file"
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(SetupError, match=r"chat_template\.jinja"):
        take_folder(folder, tmp_path / "a", "ours")
    (folder / "tokenizer.json").write_text('{"added_tokens": [{"content": "<start_of_turn>"}]}')
    take_folder(folder, tmp_path / "b", "ours")
    assert (tmp_path / "b" / "chat_template.jinja").read_text() == "ours"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda f: (f / "config.json").write_text('{"auto_map": {"AutoModel": "evil.Model"}}'), "auto_map"),
        (lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": {}}'), "auto_map"),
        (lambda f: (f / "config.json").unlink(), "missing"),
        (lambda f: (f / "config.json").write_text("{"), "can't be read as JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "JSON object"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), r"only pytorch_model\.bin"),
        (lambda f: (f / "model.safetensors").rename(f / "adapter_model.safetensors"), "no .safetensors"),
    ],
)
def test_folders_that_are_refused(folder: Path, change: Any, reason: str) -> None:
    change(folder)
    with pytest.raises(SetupError, match=reason):
        check_folder(folder)


def test_missing_shards_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    save_file({"b": np.ones(2, np.float32)}, folder / "model-2.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-3.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(SetupError, match=r"lacks model-3\.safetensors"):
        check_folder(folder)


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "gemma3-270m"])
def test_bad_model_names_are_refused(tmp_path: Path, folder: Path, name: str) -> None:
    with pytest.raises(SetupError, match=r"--name|model name"):
        prepare_own(tmp_path, folder, name, "x")


def test_only_the_converters_own_files_leave_the_archive(tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_text("x")
    sdist = tmp_path / "sdist.tar.gz"
    with tarfile.open(sdist, "w:gz") as archive:
        for name in (
            "p-1/vendor/llama.cpp/convert_hf_to_gguf.py",
            "p-1/vendor/llama.cpp/conversion/gemma.py",
            "p-1/vendor/llama.cpp/conversion/../../../../evil.py",
            "p-1/vendor/llama.cpp/src/llama.cpp",
            "p-1/setup.py",
        ):
            archive.add(source, name)
        link = tarfile.TarInfo("p-1/vendor/llama.cpp/conversion/link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    unpack(sdist, tmp_path / "out")
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert found == ["conversion/gemma.py", "convert_hf_to_gguf.py"]
    assert not (tmp_path / "evil.py").exists()
    assert not matches_manifest(tmp_path / "out")
    with pytest.raises(SetupError, match="was changed"):
        convert(tmp_path, tmp_path, tmp_path / "o.gguf", "f16")


def test_errors_end_as_one_line_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> int:
        raise ModelMissingError("Run make setup.")

    def interrupted() -> int:
        raise KeyboardInterrupt

    assert exit_code(lambda: 0) == 0
    assert exit_code(fails) == 78 and capsys.readouterr().err == "error: Run make setup.\n"
    assert exit_code(interrupted) == 130
    assert exit_code(lambda: base_models.main(["prepare", "--from", "/nowhere"])) == 78
    assert "also needs --name" in capsys.readouterr().err
