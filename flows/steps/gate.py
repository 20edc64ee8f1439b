"""May this adapter serve? Decides from an evaluation report by declared thresholds; writes nothing. Pure but
for `load_gate`, which reads `configs/gate.toml`.

Invariant: `passed` is true only where every check passed; a figure that is missing or not finite fails its
check; the record carries the sha256 of the evaluation that it was decided from.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flows.steps.metrics import METRICS
from lake.errors import GateError, InputError
from lake.files import canonical_json, sha256_bytes

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class GateConfig:
    """Thresholds; the file's comments say what each means."""

    min_items: int
    max_error_share: float  # of either arm's questions: a base that fails to answer must not flatter the adapter
    primary_metric: str
    min_diff: float
    safety: dict[str, float]  # <metric>_min or <metric>_max -> limit on the tuned arm
    non_inferiority: dict[str, float] = field(default_factory=dict[str, float])  # metric -> margin


def load_gate(path: Path) -> GateConfig:
    """The thresholds in a TOML file. Raises `InputError` for unknown keys, unknown metrics and wrong types."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Gate config {path} can't be read ({error.strerror}): set MULLE_GATE_CONFIG.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"Gate config {path} is not valid TOML: {error}.") from error
    unknown = sorted(set(values) - {"min_items", "max_error_share", "primary", "safety", "non_inferiority"})
    if unknown:
        raise InputError(f"{path}: unknown key {', '.join(unknown)}: remove it.")
    primary = values.get("primary")
    safety = values.get("safety")
    items = values.get("min_items")
    if not isinstance(primary, dict) or set(primary) != {"metric", "min_diff"}:
        raise InputError(f"{path}: [primary] needs exactly `metric` and `min_diff`.")
    if not isinstance(safety, dict) or not safety:
        raise InputError(f"{path}: [safety] needs at least one limit; a gate without one lets anything through.")
    if isinstance(items, bool) or not isinstance(items, int) or items < 1:
        raise InputError(f"{path}: min_items must be a whole number of at least 1.")
    margins = values.get("non_inferiority", {})
    config = GateConfig(
        min_items=items,
        max_error_share=_number(path, "max_error_share", values.get("max_error_share")),
        primary_metric=str(primary["metric"]),
        min_diff=_number(path, "min_diff", primary["min_diff"]),
        safety={str(key): _number(path, key, value) for key, value in safety.items()},
        non_inferiority={str(key): _number(path, key, value) for key, value in margins.items()},
    )
    wrong = [
        name
        for name in (
            config.primary_metric,
            *config.non_inferiority,
            *(_limit(key)[0] for key in config.safety),
        )
        if name not in METRICS
    ]
    if wrong:
        raise InputError(f"{path}: {', '.join(wrong)} is no metric; there are {', '.join(METRICS)}.")
    return config


def decide(
    evaluation: Mapping[str, Any],
    config: GateConfig,
    champion_id: str | None,
    expected_adapter: str | None = None,
) -> dict[str, Any]:
    """The gate record: {passed, checks, adapter_id, champion_id, evidence_sha256, thresholds, decided}.

    `champion_id` is the adapter in service now (None: the base); the registry refuses the record once that
    changed.
    """
    metrics: Mapping[str, Any] = evaluation.get("metrics") or {}
    count = int(evaluation.get("n") or 0)
    checks = [_check("min_items", float(count), ">=", float(config.min_items))]
    for arm in ("base", "tuned"):
        failed = (evaluation.get("errors") or {}).get(arm)
        share = sum(failed.values()) / count if isinstance(failed, dict) and count else None
        checks.append(_check(f"failed questions of the {arm} model", share, "<=", config.max_error_share))
    if expected_adapter is not None:
        same = evaluation.get("adapter_id") == expected_adapter
        checks.append(_check("evaluated_this_adapter", float(same), ">=", 1.0))
    low = _figure(metrics, config.primary_metric, "diff", "lo")
    checks.append(_check(f"{config.primary_metric}: lower end of the difference", low, ">", config.min_diff))
    for key, limit in config.safety.items():
        metric, sign = _limit(key)
        checks.append(_check(f"{metric} of the tuned model", _figure(metrics, metric, "tuned", "value"), sign, limit))
    for metric, margin in config.non_inferiority.items():
        if METRICS[metric].better == "down":
            high = _figure(metrics, metric, "diff", "hi")
            checks.append(_check(f"{metric}: upper end of the difference", high, "<=", margin))
        else:
            end = _figure(metrics, metric, "diff", "lo")
            checks.append(_check(f"{metric}: lower end of the difference", end, ">=", -margin))
    return {
        "version": RECORD_VERSION,
        "passed": all(check["passed"] for check in checks),
        "checks": checks,
        "adapter_id": evaluation.get("adapter_id"),
        "champion_id": champion_id,
        "backend": evaluation.get("backend"),
        "run_id": evaluation.get("run_id"),
        "n": count,
        "evidence_sha256": sha256_bytes(canonical_json(dict(evaluation))),
        "thresholds": asdict(config),
        "decided": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def require_passed(record: Mapping[str, Any]) -> None:
    """Raises `GateError` that lists what failed."""
    if record.get("passed") is True:
        return
    failed = [
        f"{check['name']} is {_shown(check['value'])}, must be {check['sign']} {check['limit']:g}"
        for check in record.get("checks", [])
        if not check["passed"]
    ]
    raise GateError("The adapter did not pass the gate: " + ("; ".join(failed) or "no checks were made") + ".")


def _check(name: str, value: float | None, sign: str, limit: float) -> dict[str, Any]:
    holds = value is not None and math.isfinite(value)
    if holds and value is not None:
        holds = {">": value > limit, ">=": value >= limit, "<=": value <= limit}[sign]
    return {"name": name, "value": value, "sign": sign, "limit": limit, "passed": holds}


def _figure(metrics: Mapping[str, Any], name: str, arm: str, end: str) -> float | None:
    value = ((metrics.get(name) or {}).get(arm) or {}).get(end)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _limit(key: str) -> tuple[str, str]:
    metric, _, side = key.rpartition("_")
    if side not in ("min", "max"):
        raise InputError(f"Gate config: {key} must end with _min or _max.")
    return metric, ">=" if side == "min" else "<="


def _number(path: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path}: {key} must be a number.")
    return float(value)


def _shown(value: float | None) -> str:
    return "missing" if value is None else f"{value:.4g}"
