"""The bench runner: medians, goals, interleaving, what it prints and keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from lake.errors import InputError
from tests.bench.run import Figure, interleaved, load_bench, main
from tests.flows import run_folders as made

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"figure", "value", "unit", "against", "goal", "holds", "rounds"}


def test_median_and_goal() -> None:
    figure = Figure("x", "s", [3.0, 1.0, 2.0], goal="<= 2")
    assert (figure.value, figure.holds, figure.line()["rounds"]) == (2.0, True, 3)
    assert not Figure("x", "s", [3.0], goal="<= 2").holds
    assert not Figure("x", "1/s", [3.0], goal=">= 4").holds
    assert Figure("x", "", [0.1], goal="> 0").holds and not Figure("x", "", [0.0], goal="> 0").holds
    with pytest.raises(InputError, match="is not"):
        _ = Figure("x", "s", [3.0], goal="fast").holds


def test_rounds_are_interleaved_and_turn() -> None:
    order: list[str] = []

    def arm(name: str) -> float:
        order.append(name)
        return float(len(order))

    values = interleaved({"a": lambda: arm("a"), "b": lambda: arm("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert values == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_unknown_bench_names_the_known() -> None:
    with pytest.raises(InputError, match="wheel"):
        load_bench("nothing")
    with pytest.raises(InputError):
        load_bench("../wheel")


def test_every_bench_can_be_loaded() -> None:
    for path in (ROOT / "tests" / "bench").glob("*/bench.py"):
        assert callable(load_bench(path.parent.name).figures)


def test_wheel_of_the_newest_run_that_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made.full_run(tmp_path / "runs" / "01JDA", 2)
    made.stage(tmp_path / "runs" / "01JDB", "build", 1, 5.0, {}, "failed")
    assert main(["wheel", "--data-dir", str(tmp_path)], tmp_path / "bench") == 0
    lines = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(set(line) == KEYS for line in lines)
    by_name = {line["figure"]: line for line in lines}
    assert by_name["stage finetune"] | {"goal": ""} == {
        "figure": "stage finetune", "value": 466.0, "unit": "s", "against": "run 01JDA", "goal": "",
        "holds": True, "rounds": 1,
    }  # fmt: skip
    assert by_name["demo, whole"]["goal"] == "<= 1200" and by_name["demo, whole"]["holds"]
    [kept] = (tmp_path / "bench").iterdir()
    first = orjson.loads(kept.read_bytes().splitlines()[0])
    assert {"cpu", "cores", "memory_gib", "python"} <= set(first["machine"]) and first["at"]
    assert main(["wheel", "--data-dir", str(tmp_path)], tmp_path / "bench") == 0
    assert len(kept.read_bytes().splitlines()) == 2 * len(lines)  # the same day: appended


def test_a_missed_goal_and_a_failed_run_end_with_a_code(tmp_path: Path) -> None:
    slow = made.full_run(tmp_path / "runs" / "01JDSLOW", 2)
    made.stage(slow, "finetune", 5, 900.0, {})
    assert main(["wheel", "--no-keep", "--data-dir", str(tmp_path)], tmp_path / "bench") == 1
    assert not (tmp_path / "bench").exists()
    made.stage(slow, "finetune", 5, 900.0, {}, "failed")
    arguments = ["wheel", "--data-dir", str(tmp_path)]
    assert main([*arguments, "--from-run", "01JDSLOW"], tmp_path / "bench") == InputError.exit_code
    assert main(arguments, tmp_path / "bench") == InputError.exit_code


def test_runs_as_a_file() -> None:
    done = subprocess.run(
        [sys.executable, "tests/bench/run.py", "no_such"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == InputError.exit_code
    assert "make bench NAME=wheel" in done.stderr
