"""The runner: names, seeds, a crash of a harness is a failed proof, a machine that can't is no proof."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.faults import run as runner
from tests.faults.harness import Harness, Lines, Progress, Tally, cycles_of, report_lines

ROOT = Path(__file__).resolve().parents[2]


def test_every_harness_is_whole_and_has_its_line_in_the_docs() -> None:
    names = runner.harnesses()
    assert len(names) == len(runner.MODULES)
    text = (ROOT / "docs" / "proof.md").read_text("utf-8")
    for name, harness in names.items():
        assert harness.FULL > 0 and harness.UNIT and harness.PROMISE and harness.__doc__
        assert f"NAME={name}`" in text


def test_one_harness_runs_with_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["replay", "--seed", "5", "--cycles", "1"]) == 0
    output = capsys.readouterr()
    assert "1 runs, seed 5" in output.err and output.out.startswith("replay") and "holds" in output.out
    with pytest.raises(SystemExit):
        runner.main(["no_such"])


def test_a_harness_that_breaks_down_proves_nothing() -> None:
    def broken(cycles: int, seed: int, scratch: Path, progress: Progress) -> Tally:
        raise OSError("no disk")

    harness = cast("Harness", SimpleNamespace(NAME="x", PROMISE="1", UNIT="runs", FULL=1, run=broken))
    tally, _ = runner.prove(harness, 7, 1)
    assert tally.failures[0].startswith("seed 7: OSError: no disk (")
    assert "FAILED" in report_lines({"x": (tally, 1.0)})[0]
    assert "SKIPPED" in report_lines({"x": (Tally(skipped="needs root"), 1.0)})[0]


def test_seeds_are_consecutive_and_ten_failures_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    seeds = [
        seed for seed, _ in cycles_of(100, 40, tally, Lines("x", every_s=0.0)) if not tally.check(False, seed, "no")
    ]
    assert seeds == list(range(40, 50)) and tally.failures[-1] == "seed 49: no"
    assert "x: 10 of 100" in capsys.readouterr().err
