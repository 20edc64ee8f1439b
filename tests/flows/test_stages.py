"""What the stages add to the steps that they call."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from flows.settings import FlowSettings
from flows.steps import stages
from flows.steps.stage import StageContext
from lake.lineage import datasets_built
from lake.settings import LakeSettings
from lake.tables import scan
from serving.settings import ServingSettings


def test_a_build_is_recorded_in_the_lake_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = LakeSettings(data_dir=tmp_path)
    path = lake.datasets_dir / "aa"
    path.mkdir(parents=True)
    counts = {"rows": 1, "train": 1, "holdout": 0, "rejected": 0}
    manifest = {"counts": counts, "inputs": {"tables": {"requests": 3}}, "seed": 1}
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))

    def built(*args: Any, **options: Any) -> dict[str, Any]:
        return {"dataset": "aa", "path": str(path), "reused": False}

    monkeypatch.setattr(stages, "run_build", built)
    monkeypatch.setattr(stages, "open_base", lambda stage: SimpleNamespace(template_sha256="", tokenizer_path=path))
    monkeypatch.setattr(stages, "open_builder", lambda stage: None)
    monkeypatch.setattr(stages, "open_catalog", lambda stage: SimpleNamespace(tools=[]))
    monkeypatch.setattr(stages, "sha256_file", lambda path: "")
    stage = StageContext("run-7", "build", lake, ServingSettings(), FlowSettings())
    assert stages.build_stage(stage) == stages.build_stage(stage) == built()
    (row,) = scan(lake.lake_dir, "datasets").collect().to_dicts()
    assert (row["version"], row["run_id"]) == ("aa", "run-7")
    assert [one.versions for one in datasets_built(lake.lake_dir, lake.datasets_dir)] == [{"requests": 3}]
