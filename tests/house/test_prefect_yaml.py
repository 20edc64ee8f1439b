"""prefect.yaml and the flow files say the same: every entrypoint loads, every flow has a deployment."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "prefect.yaml"


def deployments() -> list[dict[str, Any]]:
    """Entries of prefect.yaml; none where the file is missing (a test below says so)."""
    return yaml.safe_load(FILE.read_text("utf-8"))["deployments"] if FILE.is_file() else []


def load(entrypoint: str) -> Any:
    module, _, name = entrypoint.rpartition(".")
    return getattr(importlib.import_module(module), name)


def flow_files() -> list[str]:
    """Modules directly in flows/ that define a flow."""
    found: list[str] = []
    for path in sorted((ROOT / "flows").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            marks = node.decorator_list if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else []
            if any(ast.unparse(mark).split("(")[0] in ("flow", "prefect.flow") for mark in marks):
                found.append(f"flows.{path.stem}.{node.name}")  # type: ignore[attr-defined]
    return found


def test_there_are_deployments() -> None:
    assert len(deployments()) >= 8


@pytest.mark.parametrize("entry", deployments(), ids=lambda entry: entry["entrypoint"])
def test_entrypoint_is_a_flow_with_these_parameters(entry: dict[str, Any]) -> None:
    assert ":" not in entry["entrypoint"], "a dotted module path: the path form shadows other packages"
    flow = load(entry["entrypoint"])
    assert isinstance(flow, Flow)
    parameters = inspect.signature(flow.fn).parameters
    assert set(entry.get("parameters") or {}) <= set(parameters)
    needed = {name for name, one in parameters.items() if one.default is inspect.Parameter.empty}
    assert needed <= set(entry.get("parameters") or {}), "a parameter without a default needs one in prefect.yaml"


@pytest.mark.parametrize("entry", deployments(), ids=lambda entry: entry["entrypoint"])
def test_default_parameters_are_valid(entry: dict[str, Any]) -> None:
    given = entry.get("parameters") or {}
    cast = load(entry["entrypoint"]).validate_parameters(given)  # raises where a type is wrong
    assert {name: cast[name] for name in given} == given


@pytest.mark.parametrize("entry", deployments(), ids=lambda entry: entry["entrypoint"])
def test_deployment_says_what_it_does_and_where_it_runs(entry: dict[str, Any]) -> None:
    assert entry.get("description", "").strip()
    assert entry["work_pool"]["name"]


def test_every_flow_has_a_deployment() -> None:
    assert sorted(set(flow_files()) - {entry["entrypoint"] for entry in deployments()}) == []


def test_deployment_names_are_unique() -> None:
    names = [(load(entry["entrypoint"]).name, entry["name"]) for entry in deployments()]
    assert len(names) == len(set(names))
