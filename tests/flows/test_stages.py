"""What the stages add to the steps that they call."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.settings import FlowSettings
from flows.steps import stages
from flows.steps.build_config import BuildConfig
from flows.steps.stage import StageContext
from lake.schemas.rows import EvalCase, Tool
from lake.settings import LakeSettings
from serving.settings import ServingSettings


def test_a_build_gets_its_config_and_says_which_test_questions_are_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    cases = [
        EvalCase(name, "질문", "ko", f"추천: {name}\n이유: 맞습니다.", [name.lower()], []) for name in ("Slack", "Gone")
    ]

    def built(lake_dir: Path, datasets_dir: Path, given: Any, config: BuildConfig, **options: Any) -> dict[str, Any]:
        seen.update(given=given, config=config, **options)
        return {"dataset": "aa"}

    monkeypatch.setattr(stages, "run_build", built)
    monkeypatch.setattr(
        stages, "open_base", lambda stage: SimpleNamespace(template_sha256="t", tokenizer_path=tmp_path)
    )
    monkeypatch.setattr(stages, "open_builder", lambda stage: None)
    catalog = SimpleNamespace(tools=[Tool("slack", "Slack", "메신저")])
    monkeypatch.setattr(stages, "open_catalog", lambda stage: catalog)
    monkeypatch.setattr(stages, "read_cases", lambda path: cases)
    monkeypatch.setattr(stages, "sha256_file", lambda path: "")
    config = tmp_path / "dataset.toml"
    config.write_text("seed = 5\nown_share = 0.1\n")
    flows = FlowSettings(build_config=config)
    stage = StageContext("run-7", "build", LakeSettings(data_dir=tmp_path), ServingSettings(), flows)
    report = stages.build_stage(stage, None, ["own_share=0.3", "unlabelled=served"])
    assert report["stale_test_questions"] == {"removed_tool": 1}
    assert (report["test_questions"], report["fresh_test_questions"]) == (2, 1)
    assert seen["config"] == BuildConfig(seed=5, own_share=0.3, unlabelled="served")
    assert (seen["run_id"], seen["given"].template_sha256) == ("run-7", "t")
    assert seen["given"].lineage.base_models == {stage.serving.base_name}
