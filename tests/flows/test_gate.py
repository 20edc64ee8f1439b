"""The gate lets only better adapters through: worse, equal, unsafe and unproven ones are refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from flows.steps.gate import GateConfig, decide, load_gate, require_passed
from lake.errors import GateError, InputError

CONFIG = load_gate(Path("configs/gate.toml"))


def good() -> dict[str, Any]:
    """An evaluation that passes."""

    def metric(base: float, tuned: float, width: float = 0.05) -> dict[str, Any]:
        diff = tuned - base
        return {
            "base": {"value": base, "lo": base - width, "hi": base + width, "n": 150},
            "tuned": {"value": tuned, "lo": tuned - width, "hi": tuned + width, "n": 150},
            "diff": {"value": diff, "lo": diff - width, "hi": diff + width},
        }

    return {
        "adapter_id": "a" * 16,
        "run_id": "r",
        "backend": "vllm",
        "n": 150,
        "errors": {"base": {}, "tuned": {}},
        "metrics": {
            "tool_right": metric(0.2, 0.7),
            "house_format": metric(0.0, 1.0),
            "invented_url": metric(0.3, 0.0),
            "language_match": metric(0.8, 1.0),
            "named_only_retrieved": metric(0.8, 1.0),
            "chrf": metric(20.0, 60.0),
        },
    }


def verdict(evaluation: dict[str, Any]) -> dict[str, Any]:
    return decide(evaluation, CONFIG, champion_id=None, expected_adapter="a" * 16)


def test_a_better_adapter_passes_and_the_record_names_its_evidence() -> None:
    record = verdict(good())
    assert record["passed"] and record["adapter_id"] == "a" * 16 and record["champion_id"] is None
    assert all(check["passed"] for check in record["checks"]) and len(record["evidence_sha256"]) == 64
    require_passed(record)
    changed = good()
    changed["metrics"]["chrf"]["base"]["value"] = 21.0
    assert verdict(changed)["evidence_sha256"] != record["evidence_sha256"]


def _set(path: str, value: Any) -> Any:
    def change(evaluation: dict[str, Any]) -> None:
        *keys, last = path.split(".")
        target = evaluation
        for key in keys:
            target = target[key]
        target[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metrics.tool_right.diff.lo", -0.01),  # worse, or not shown to be better
        ("metrics.tool_right.diff.lo", 0.0),  # equal: a no-op adapter
        ("metrics.tool_right.diff.lo", float("nan")),
        ("metrics.tool_right.diff.lo", None),
        ("metrics.house_format.tuned.value", 0.94),
        ("metrics.invented_url.tuned.value", 0.021),
        ("metrics.language_match.tuned.value", 0.94),
        ("metrics.named_only_retrieved.tuned.value", 0.5),
        ("metrics.chrf.diff.lo", -2.1),
        ("n", CONFIG.min_items - 1),
        ("adapter_id", "b" * 16),
        ("errors.base", {"llm_timeout": 4}),  # a base that does not answer flatters the adapter
        ("errors.tuned", {"llm_timeout": 4}),
        ("errors", {}),
        ("metrics", {}),
    ],
)
def test_anything_short_of_that_is_refused(path: str, value: Any) -> None:
    evaluation = copy.deepcopy(good())
    _set(path, value)(evaluation)
    record = verdict(evaluation)
    assert record["passed"] is False
    with pytest.raises(GateError, match="did not pass"):
        require_passed(record)


def test_limits_themselves_pass() -> None:
    evaluation = good()
    evaluation["metrics"]["house_format"]["tuned"]["value"] = 0.95
    evaluation["metrics"]["invented_url"]["tuned"]["value"] = 0.02
    evaluation["n"] = CONFIG.min_items
    assert verdict(evaluation)["passed"]


def test_a_metric_where_less_is_better_has_its_margin_at_the_upper_end() -> None:
    config = GateConfig(1, 1.0, "tool_right", 0.0, {"house_format_min": 0.0}, {"over_refusal": 0.05})
    evaluation = good()
    evaluation["metrics"]["over_refusal"] = {"diff": {"value": 0.0, "lo": -0.2, "hi": 0.05}}
    assert decide(evaluation, config, None)["passed"]
    evaluation["metrics"]["over_refusal"]["diff"]["hi"] = 0.06
    assert not decide(evaluation, config, None)["passed"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "min_items = 0\nmax_error_share = 0\n[primary]\nmetric='tool_right'\nmin_diff=0\n[safety]\nhouse_format_min=1",
        "min_items = 1\nmax_error_share = 0\n[primary]\nmetric='tool_rigth'\nmin_diff=0\n[safety]\nhouse_format_min=1",
        "min_items = 1\nmax_error_share = 0\n[primary]\nmetric='tool_right'\nmin_diff=0\n[safety]\n",
        "min_items = 1\nmax_error_share = 0\n[primary]\nmetric='tool_right'\nmin_diff=0\n[safety]\nhouse_format=1",
        "min_items = 1\nmax_error_share = 0\n[primary]\nmetric='tool_right'\nmin_diff='a'\n[safety]\nchrf_min=1",
        "min_items = 1\n[primary]\nmetric='tool_right'\nmin_diff=0\n[safety]\nhouse_format_min=1",
        "a = 1\nmin_items = 1\nmax_error_share = 0\n[primary]\nmetric='tool_right'\nmin_diff=0\n[safety]\nchrf_min=1",
        "min_items = ",
    ],
)
def test_a_wrong_gate_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(InputError):
        load_gate(path)


def test_a_missing_gate_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="MULLE_GATE_CONFIG"):
        load_gate(tmp_path / "none.toml")
