"""vLLM's arguments and environment; the server itself is started by the end-to-end test."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lake.errors import ModelMissingError, SetupError
from lake.files import read_json
from serving import vllm_dtype
from serving.base_models import BaseModel
from serving.settings import ServingSettings
from serving.vllm_dtype import DtypeTimes, choose_dtype, machine_dtype
from serving.vllm_server import LORA_RANKS, build_argv, build_environment, build_launch, lora_rank_slot


@pytest.fixture
def base(tmp_path: Path) -> BaseModel:
    root = tmp_path / "models" / "base" / "tiny"
    (root / "hf").mkdir(parents=True)
    (root / "hf" / "config.json").write_text("{}")
    return BaseModel("tiny", root, "graft", "gemma3", "x", "", "w", "t", "g", 2, 1, 100, 1024)


def _value(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_arguments_follow_the_settings(base: BaseModel) -> None:
    settings = ServingSettings(
        vllm_python=Path("/opt/v/bin/python"),
        vllm_max_lora_rank=12,
        vllm_max_loras=3,
        vllm_max_cpu_loras=1,
        vllm_max_model_len=4096,
        vllm_max_num_seqs=5,
    )
    argv = build_argv(settings, base, 8123, "float32", eager=True)
    assert argv[:3] == ["/opt/v/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert _value(argv, "--model") == str(base.hf_dir)
    assert _value(argv, "--served-model-name") == "tiny"
    assert _value(argv, "--host") == "127.0.0.1"
    assert _value(argv, "--port") == "8123"
    assert _value(argv, "--dtype") == "float32"
    assert _value(argv, "--max-model-len") == "1024"  # the model's own limit is lower than the setting
    assert _value(argv, "--max-num-seqs") == "5"
    assert _value(argv, "--max-lora-rank") == "16"
    assert _value(argv, "--max-loras") == "3"
    assert _value(argv, "--max-cpu-loras") == "3"  # never below --max-loras
    assert _value(argv, "--chat-template") == str(base.template_path)
    assert _value(argv, "--generation-config") == "vllm"
    assert int(_value(argv, "--max-logprobs")) >= 20
    assert "--enable-lora" in argv and "--enable-prefix-caching" in argv and "--enforce-eager" in argv
    assert "--enforce-eager" not in build_argv(settings, base, 1, "auto", eager=False)
    assert not {"--api-key", "--trust-remote-code"} & set(argv)


def test_environment_is_offline_and_holds_the_key(tmp_path: Path) -> None:
    settings = ServingSettings(vllm_api_key="s3cret", vllm_kv_cache_gib=3, vllm_reserved_cores=1)  # type: ignore[arg-type]
    env = build_environment(
        settings, {"PATH": "/bin", "PYTHONPATH": "/x", "VIRTUAL_ENV": "/y", "VLLM_API_KEY": "old"}, tmp_path
    )
    assert env["VLLM_API_KEY"] == "s3cret"
    assert env["PATH"] == "/bin" and "PYTHONPATH" not in env and "VIRTUAL_ENV" not in env
    assert env["HF_HUB_OFFLINE"] == env["VLLM_NO_USAGE_STATS"] == "1"
    assert env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert env["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert env["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "1"
    assert env["VLLM_CACHE_ROOT"] == str(tmp_path)
    plain = build_environment(ServingSettings(vllm_api_key=""), {"VLLM_API_KEY": "old"}, tmp_path)  # type: ignore[arg-type]
    assert "VLLM_API_KEY" not in plain


@pytest.mark.parametrize(("rank", "slot"), [(1, 1), (2, 8), (8, 8), (9, 16), (16, 16), (65, 128), (512, 512)])
def test_rank_is_rounded_up_to_what_vllm_takes(rank: int, slot: int) -> None:
    assert lora_rank_slot(rank) == slot and slot in LORA_RANKS


def test_rank_above_all_is_refused() -> None:
    with pytest.raises(SetupError, match="512"):
        lora_rank_slot(513)


def test_dtype_follows_the_measured_times() -> None:
    slow, quick = DtypeTimes(3e-11, 1.8e-10), DtypeTimes(5e-12, 4.5e-11)  # measured with native bfloat16
    assert choose_dtype(float32=slow, bfloat16=quick) == "bfloat16"
    assert choose_dtype(float32=quick, bfloat16=slow) == "float32"
    assert choose_dtype(float32=quick, bfloat16=quick) == "float32"
    slightly = DtypeTimes(quick.prefill_token_s / 1.1, quick.decode_step_s / 1.1)
    assert choose_dtype(float32=quick, bfloat16=slightly) == "float32"  # not worth the rounding
    # Faster decoding does not pay for prompts that take 35 times as long.
    assert choose_dtype(DtypeTimes(1e-11, 1e-10), DtypeTimes(3.5e-10, 5e-11)) == "float32"


def _fake_torch(folder: Path) -> dict[str, str]:
    """The smallest torch that the measurement needs, with slow bfloat16, in place of vLLM's own."""
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(
        "import time\n__version__='0'\nfloat32, bfloat16 = 'f', 'b'\n"
        "class cuda:\n    is_available = staticmethod(lambda: False)\n"
        "class T:\n    def to(self, d):\n        self.d = d\n        return self\n"
        "def randn(*shape):\n    return T()\n"
        "class nn:\n    class functional:\n"
        "        linear = staticmethod(lambda x, w: time.sleep(0.02 if x.d == 'b' else 0.001))\n"
    )
    return {"PYTHONPATH": str(folder)}


def test_dtype_is_measured_once_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python, cache = Path(sys.executable), tmp_path / "run" / "vllm-dtype.json"
    assert machine_dtype(python, _fake_torch(tmp_path / "lib"), cache) == ("float32", "cpu")
    assert read_json(cache)["dtype"] == "float32"

    def never(*args: object) -> dict[str, object]:
        raise AssertionError("measured twice")

    monkeypatch.setattr(vllm_dtype, "measure", never)
    assert machine_dtype(python, {}, cache) == ("float32", "cpu")
    cache.write_text('{"machine": "another", "dtype": "bfloat16", "device": "cpu"}')
    with pytest.raises(AssertionError, match="measured twice"):
        machine_dtype(python, {}, cache)


def test_an_interpreter_without_torch_is_named(tmp_path: Path, base: BaseModel) -> None:
    env = {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "torch.py").write_text("raise ImportError('no torch')")
    with pytest.raises(SetupError, match="MULLE_VLLM_PYTHON"):
        vllm_dtype.measure(Path(sys.executable), env)
    missing = ServingSettings(vllm_python=tmp_path / "nowhere" / "python")
    with pytest.raises(SetupError, match="does not exist: run `make setup`"):
        build_launch(missing, base, {}, tmp_path)


def test_settings_override_what_was_measured(tmp_path: Path, base: BaseModel) -> None:
    env = _fake_torch(tmp_path / "lib")
    python = tmp_path / "python"  # keeps PYTHONPATH, which a real launch drops
    python.write_text(f'#!/bin/sh\nPYTHONPATH={env["PYTHONPATH"]} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    auto = build_launch(ServingSettings(vllm_python=python), base, {}, tmp_path, 8123)
    assert _value(auto.argv, "--dtype") == "float32" and "--enforce-eager" in auto.argv
    assert _value(auto.argv, "--port") == "8123"
    own = ServingSettings(vllm_python=python, vllm_dtype="bfloat16", vllm_eager="no", vllm_port=8555)
    launch = build_launch(own, base, {}, tmp_path)
    assert _value(launch.argv, "--dtype") == "bfloat16" and "--enforce-eager" not in launch.argv
    assert _value(launch.argv, "--port") == "8555"
    (base.hf_dir / "config.json").unlink()
    with pytest.raises(ModelMissingError, match="prepare"):
        build_launch(own, base, {}, tmp_path)
