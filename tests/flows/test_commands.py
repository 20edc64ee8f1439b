"""Every flow is a command: `python -m flows.NAME` shows its parameters, runs, and says known errors in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from lake.ingest import ingest
from lake.settings import LakeSettings
from lake.tables import append, scan
from tests.lake.review_kit import QUESTIONS, answer, request
from tests.lake.test_review_formats import answered

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def run(name: str, *words: str, data: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """One flow as a user would call it, on a data folder of its own and Prefect's own temporary server."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MULLE_", "LLM_"))}
    env |= {"MULLE_DATA_DIR": str(data), "PREFECT_HOME": str(data / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "0"}
    env["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"  # the temporary server on a busy machine
    argv = [sys.executable, "-m", f"flows.{name}", *words]
    return subprocess.run(argv, env=env | extra, cwd=ROOT, capture_output=True, text=True, timeout=600)


# Flows that share a file are told apart by a first word.
WORDS = {"flows.reviews.export_queue": ["export"], "flows.reviews.measure_agreement": ["agreement"]}
# Commands that do not run as a flow, or only in part: their ids must not be kept in Prefect's database.
ONLY_IN_A_DEPLOYMENT = {"flows.erase.erase_data": {"erasure_id", "run_id"}, "flows.trace.trace_lineage": {"run_id"}}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda one: one["entrypoint"])
def test_help_names_the_parameters_of_the_deployment(deployment: dict[str, object], tmp_path: Path) -> None:
    entrypoint = str(deployment["entrypoint"])
    done = run(entrypoint.split(".")[1], *WORDS.get(entrypoint, []), "--help", data=tmp_path, COLUMNS="200")
    assert done.returncode == 0, done.stderr
    parameters = deployment["parameters"]
    assert isinstance(parameters, dict)
    for parameter in {*parameters, "run_id"} - ONLY_IN_A_DEPLOYMENT.get(entrypoint, set()):
        option, place = f"--{parameter.replace('_', '-')} ", re.compile(rf"[\[{{]{parameter}[\]}}]")
        assert option in done.stdout or place.search(done.stdout), parameter


@pytest.mark.slow
def test_reviews_then_ingest_then_nothing_left_to_do(tmp_path: Path) -> None:
    (tmp_path / "reviews.jsonl").write_text(
        '{"question": "화면 시안을 같이 고칠 툴?", "answer": "추천: Figma", "tools": ["figma"]}\n'
        "broken\n"
        '{"question": "회의 녹음을 글로?", "answer": ""}\n'
    )
    done = run("reviews", "--file", str(tmp_path / "reviews.jsonl"), data=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "reviews.jsonl:2: not JSON" in done.stderr and "reviews.jsonl:3: `answer` is missing" in done.stderr
    for _ in range(2):
        done = run("ingest", data=tmp_path)
        assert done.returncode == 0, done.stderr
        assert scan(tmp_path / "lake", "reviews").collect()["question"].to_list() == ["화면 시안을 같이 고칠 툴?"]


@pytest.mark.slow
def test_known_errors_are_one_line_and_an_exit_code(tmp_path: Path) -> None:
    done = run("index", "--catalog", str(tmp_path / "missing.jsonl"), data=tmp_path)
    assert done.returncode == 65
    said = [line for line in done.stderr.splitlines() if line.startswith("invalid_catalog: ")]
    assert len(said) == 1 and "missing.jsonl" in said[0]


@pytest.mark.slow
def test_reviews_go_out_and_come_in_by_words(tmp_path: Path) -> None:
    append(tmp_path / "lake", "requests", [request(n, text) for n, text in enumerate(QUESTIONS)])
    file = tmp_path / "queue.csv"
    done = run("reviews", "export", "csv", "--out", str(file), "--limit", "2", data=tmp_path)
    assert done.returncode == 0, done.stderr
    file.write_bytes(answered("csv", file.read_bytes(), answer("Slack"), ["slack"], "kim"))
    done = run("reviews", "import", str(file), "--format", "csv", data=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ingest(LakeSettings(data_dir=tmp_path), datetime.now(UTC)).rows_added["reviews"] == 2
