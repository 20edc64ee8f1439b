"""One turn of the wheel on the real parts, shared by every end-to-end test: one vLLM start, eight training steps.

Real Prefect server and worker, real llama.cpp, real vLLM, real training; data in a temporary folder, the base
model linked from `models/`. Everything is stopped at the end, also when a test fails.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.demo import Plan, sample_questions, turn_once
from flows.steps.clock import StageClock
from flows.steps.report import build_report, summary_table
from flows.steps.stack import Ports, Stack
from lake.settings import LakeSettings
from serving.base_models import main as base_models
from serving.settings import ServingSettings
from tests.e2e.turned import Turned

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = 24


@pytest.fixture(scope="session")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turned]:
    """Turn the wheel once."""
    assert base_models(["prepare"]) == 0
    root = tmp_path_factory.mktemp("wheel")
    models = root / "models"
    models.mkdir()
    for part in ("base", "converter", "embedder"):
        (models / part).symlink_to(ROOT / "models" / part)
    lake = LakeSettings(data_dir=root / "data", models_dir=models)
    environ = {
        **os.environ,
        "MULLE_MAX_TOKENS": "48",
        "MULLE_EVAL_MAX_TOKENS": "48",
        "MULLE_GATE_CONFIG": str(ROOT / "tests/e2e/gate.toml"),
    }
    clock = StageClock(dict.fromkeys(("start", "ask", "reviews", "cycle", "vllm", "lmstudio"), 60), lake.run_dir)
    stack = Stack(lake, ServingSettings(), Ports.free(), environ, clock.say)
    sample = ROOT / "data/sample"
    plan = Plan(
        run_id="01E2E0000000000000000000TN",
        questions=sample_questions(sample, QUESTIONS),
        reviews=sample / "reviews.jsonl",
        limit=6,
        synth_tools=2,
        train_config=ROOT / "configs/ci.toml",
        load_seconds=10.0,  # either server may need some seconds for an answer here
        keep_vllm=True,
    )
    try:
        traffic = turn_once(stack, plan, clock)
        build_report(stack.run_folder(plan.run_id), lake.reports_dir / "report.html")
        table = summary_table(stack.run_folder(plan.run_id))
        yield Turned(stack, plan, traffic, lake.reports_dir / "report.html", table)
    finally:
        stack.stop_all()
