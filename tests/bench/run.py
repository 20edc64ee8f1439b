"""Runs one bench and keeps its figures: `.venv/bin/python tests/bench/run.py wheel [--rounds 3] [-- more]`.

Imports `tests/bench/<name>/bench.py`, calls its `figures(rounds, arguments)` and prints one JSON line a figure, last.
Keeps the lines under `docs/bench/<name>-<date>.jsonl`, each with the date and the machine; a second run of the same
day is appended. Exit code 1 where a figure misses its goal.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import operator
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import orjson

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # started as a file, not as a module: tests are no packages
    sys.path.insert(0, str(ROOT))

from flows.steps.machine import machine_facts  # noqa: E402
from lake.errors import InputError, MulleError  # noqa: E402
from lake.files import write_bytes_atomic  # noqa: E402

_SIGNS = {"<=": operator.le, ">=": operator.ge, ">": operator.gt}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure. `values`: one a round; `against`: what it is compared with (empty: nothing).

    `goal`: like `<= 1200`, `>= 0.95` or `> 0`; empty: none, then it holds.
    """

    figure: str
    unit: str
    values: Sequence[float]
    against: str = ""
    goal: str = ""

    @property
    def value(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.values)

    @property
    def holds(self) -> bool:
        """Whether the median meets the goal. Raises `InputError` for a goal that can't be read."""
        if not self.goal:
            return True
        sign, _, limit = self.goal.partition(" ")
        try:
            bound = float(limit)
        except ValueError:
            raise InputError(
                f"The goal {self.goal!r} of {self.figure} is not `<= number`, `>= number` or `> number`."
            ) from None
        if sign not in _SIGNS or not math.isfinite(bound):
            raise InputError(f"The goal {self.goal!r} of {self.figure} is not `<= number`, `>= number` or `> number`.")
        return _SIGNS[sign](self.value, bound)

    def line(self) -> dict[str, object]:
        """The seven keys that every bench prints."""
        return {
            "figure": self.figure,
            "value": round(self.value, 4),
            "unit": self.unit,
            "against": self.against,
            "goal": self.goal,
            "holds": self.holds,
            "rounds": len(self.values),
        }


def interleaved(arms: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Measure every arm once a round, the order turning round by round, so that drift hits all arms alike."""
    names = list(arms)
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % max(len(names), 1)
        for name in names[shift:] + names[:shift]:
            values[name].append(arms[name]())
    return values


def load_bench(name: str, folder: Path = Path(__file__).parent) -> ModuleType:
    """The module of a bench. Raises `InputError` naming those that exist."""
    path = folder / name / "bench.py"
    if not name.isidentifier() or not path.is_file():
        known = ", ".join(sorted(entry.parent.name for entry in folder.glob("*/bench.py")))
        raise InputError(f"There is no bench {name!r}: choose one of {known}, e.g. make bench NAME=wheel.")
    spec = importlib.util.spec_from_file_location(f"mulle_bench_{name}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"The bench {path} can't be loaded.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def keep(name: str, figures: Iterable[Figure], folder: Path, now: datetime) -> Path:
    """Append the figures with date and machine to today's file of this bench; returns the file."""
    path = folder / f"{name}-{now:%Y-%m-%d}.jsonl"
    context = {"at": now.isoformat(timespec="seconds"), "machine": machine_facts()}
    lines = [orjson.dumps({**figure.line(), "values": list(figure.values), **context}) for figure in figures]
    old = path.read_bytes() if path.exists() else b""
    write_bytes_atomic(path, old + b"\n".join(lines) + b"\n")
    return path


def main(argv: Sequence[str] | None = None, out_dir: Path = ROOT / "docs" / "bench") -> int:
    parser = argparse.ArgumentParser(description="Run one bench of tests/bench and keep its figures.")
    parser.add_argument("name")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each arm, where the bench repeats anything")
    parser.add_argument("--no-keep", action="store_true", help="print only, write nothing")
    options, rest = parser.parse_known_args(argv)
    try:
        if options.rounds < 1:
            raise InputError("--rounds must be at least 1.")
        arguments = [argument for argument in rest if argument != "--"]
        figures: list[Figure] = list(load_bench(options.name).figures(options.rounds, arguments))
        if not figures:
            raise InputError(f"The bench {options.name} measured nothing.")
        lines = [figure.line() for figure in figures]
        if not options.no_keep:
            print(f"kept in {keep(options.name, figures, out_dir, datetime.now(UTC))}", file=sys.stderr)
    except MulleError as error:
        print(f"{error.code}: {error}", file=sys.stderr)
        return error.exit_code
    for line in lines:
        print(orjson.dumps(line).decode())
    return 0 if all(line["holds"] for line in lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
