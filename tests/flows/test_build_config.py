"""The dataset's settings: from a file, from parameters, refused with what to do."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from flows.steps.build_config import BuildConfig, from_dict, load_config, parse_changes
from lake.errors import DatasetError

FILE = Path(__file__).resolve().parents[2] / "configs" / "dataset.toml"


def test_the_file_shows_every_setting_with_its_default() -> None:
    assert load_config(FILE) == BuildConfig()
    text = FILE.read_text("utf-8")
    assert [one.name for one in fields(BuildConfig) if one.name not in text] == []


def test_parameters_come_after_the_file(tmp_path: Path) -> None:
    file = tmp_path / "dataset.toml"
    file.write_text('seed = 7\nunlabelled = "served"\n[language_shares]\nko = 0.7\n')
    changes = parse_changes(["seed=8", "key_share = 1", "language_shares={en=0.5}", "ungrounded=reject"])
    config = load_config(file, changes)
    assert (config.seed, config.key_share, config.unlabelled, config.ungrounded) == (8, 1.0, "served", "reject")
    assert config.language_shares == {"en": 0.5}


@pytest.mark.parametrize(
    "values",
    [
        {"holdout_share": 0.9}, {"near_duplicate_threshold": 0.0}, {"max_prompt_tokens": 10}, {"cluster_cap": 0},
        {"synthetic_share": 2.0}, {"unlabelled": "all"}, {"own_share": -0.1}, {"key_rows": 0}, {"key_share": 2},
        {"max_generation": -1}, {"category_share": 1.1}, {"no_tool_share": -1}, {"stale_labels": "x"},
        {"ungrounded": "x"}, {"language_shares": {"fr": 0.5}}, {"language_shares": {"ko": 0.2, "en": 0.2}},
        {"seed": "7"}, {"seed": True}, {"language_shares": 3}, {"unknown": 1}, {"max_tokens": 1.5},
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(values: dict[str, Any]) -> None:
    with pytest.raises(DatasetError, match=next(iter(values))):
        from_dict(values)


def test_files_and_changes_that_can_not_be_read_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="set MULLE_BUILD_CONFIG"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seed = ")
    with pytest.raises(DatasetError, match="not valid TOML"):
        load_config(tmp_path / "bad.toml")
    with pytest.raises(DatasetError, match="write name=value"):
        parse_changes(["own_share"])
