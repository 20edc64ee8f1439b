"""Seconds of each stage of one turn of the wheel, from what a run recorded: `make bench NAME=wheel`.

Reads `data/runs/<run_id>/`: `demo.json` where the run was a demo, and the records of the stages. `--from-run ID`
takes that run, else the newest one that finished; a turn takes many minutes, so it is not repeated here: the
rounds of a figure are the turns named (`--from-run` may be given several times), its value their median.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from flows.steps.report_data import RunData, load_run
from flows.steps.report_view import demo_seconds
from lake.errors import InputError
from lake.settings import LakeSettings
from tests.bench.run import Figure

# The promised budget on two cores with cached packages: the demo in 20 minutes, 8 of them for training.
GOALS = {"demo, whole": "<= 1200", "stage finetune": "<= 480"}
PARENTS = ("cycle", "demo")


def newest_run(runs_dir: Path) -> Path:
    """The newest run (ids sort by time) with an evaluation and no failed stage. Raises `InputError` without one."""
    for folder in sorted((f for f in runs_dir.glob("*") if f.is_dir()), reverse=True):
        run = load_run(folder)
        if run.evaluations and run.failed is None:
            return folder
    raise InputError(f"There is no finished run in {runs_dir}: run `make demo` first, or name one with --from-run ID.")


def seconds(run: RunData) -> dict[str, float]:
    """Figure → seconds of one run."""
    found = {f"stage {stage.name}": stage.seconds for stage in run.stages if stage.name not in PARENTS}
    demo = dict(demo_seconds(run))
    if demo:
        found |= {f"demo, {name}": value for name, value in demo.items()}
        found["demo, whole"] = sum(demo.values())
    return found


def figures(rounds: int, arguments: Sequence[str]) -> Iterable[Figure]:
    """One figure a stage; `rounds` is not used, since a recorded turn is read, not repeated."""
    del rounds
    parser = argparse.ArgumentParser(prog="wheel")
    parser.add_argument("--from-run", action="append", default=[], metavar="ID")
    parser.add_argument("--data-dir", type=Path, default=None)
    options = parser.parse_args(list(arguments))
    runs_dir = (options.data_dir or LakeSettings().data_dir) / "runs"
    folders = [runs_dir / name for name in options.from_run] or [newest_run(runs_dir)]
    turns = [load_run(folder) for folder in folders]
    for turn in turns:
        if turn.failed is not None:
            raise InputError(f"Run {turn.run_id} failed at {turn.failed.name}: its times are of no use.")
    measured = [seconds(turn) for turn in turns]
    against = "run " + ", ".join(turn.run_id for turn in turns)
    for name in measured[0]:
        values = [turn[name] for turn in measured if name in turn]
        yield Figure(name, "s", values, against, GOALS.get(name, ""))
