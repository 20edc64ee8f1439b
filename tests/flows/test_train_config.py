"""Hyperparameters: every shipped file loads, every mistake is named, every key has an effect on the trainer."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from flows.steps.train_config import TrainConfig, from_dict, load_config
from flows.steps.train_loop import learning_rate_share
from lake.errors import InputError

CONFIGS = [Path("configs") / f"{name}.toml" for name in ("demo", "ci", "small-gpu", "solar-ko-10.7b")]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads(path: Path) -> None:
    config = load_config(path)
    assert from_dict(_toml_types(config)) == config


def _toml_types(config: TrainConfig) -> dict[str, object]:
    values = config.to_dict()
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def test_the_large_model_has_the_stated_hyperparameters() -> None:
    solar = load_config(Path("configs/solar-ko-10.7b.toml"))
    assert solar.learning_rate == 2e-5 and 3 <= solar.epochs <= 5
    assert solar.method == "qlora" and solar.quant_type == "nf4" and solar.double_quant


def test_the_quick_config_takes_few_steps() -> None:
    assert 1 <= load_config(Path("configs/ci.toml")).max_steps <= 12


def test_the_demo_stays_within_eight_minutes() -> None:
    assert 0 < load_config(Path("configs/demo.toml")).max_seconds <= 480


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learning_rat = 1e-4", "unknown key learning_rat"),
        ('rank = "16"', "rank"),
        ("rank = 16.5", "rank"),
        ("rank = true", "rank"),
        ("rank = 1024", "1..512"),
        ("double_quant = 1", "double_quant"),
        ('method = "full"', "qlora"),
        ("dropout = 1", "dropout"),
        ("epochs = 0", "epochs"),
        ("max_seconds = -1", "max_seconds"),
        ("target_modules = []", "target_modules"),
        ("target_modules = [1]", "target_modules"),
        ('compute_dtype = "int8"', "auto"),
        ("rank = ", "not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can't be read"):
        load_config(tmp_path / "none.toml")


def test_whole_numbers_stand_for_floats_and_lists_for_modules(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('epochs = 2\ntarget_modules = ["q_proj", "v_proj"]')
    config = load_config(path)
    assert config.epochs == 2.0 and isinstance(config.epochs, float)
    assert config.target_modules == ("q_proj", "v_proj")


def test_every_key_is_read_by_the_trainer() -> None:
    sources = "".join(path.read_text() for path in Path("flows/steps").glob("train*.py"))
    unread = [field.name for field in fields(TrainConfig) if f"config.{field.name}" not in sources]
    assert unread == []


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
def test_the_learning_rate_climbs_then_falls(shape: str) -> None:
    assert learning_rate_share(0.05, 0.1, shape) == pytest.approx(0.5)
    assert learning_rate_share(0.1, 0.1, shape) == pytest.approx(1.0)
    end = learning_rate_share(1.0, 0.1, shape)
    assert end == (1.0 if shape == "constant" else pytest.approx(0.0))
    assert learning_rate_share(0.0, 0.1, shape) > 0
