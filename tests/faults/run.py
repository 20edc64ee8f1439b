"""Runs fault harnesses in full: `make proof`, `make proof NAME=kill`, `make proof NAME=kill SEED=17 CYCLES=1`.

One after the other, a line of progress with the time left now and then, a summary table last. Exit code 1 where a
promise does not hold; a harness that this machine can't run is named with the reason and does not count as proof.
The seed is new each time unless given, and is printed with every failure.
"""

from __future__ import annotations

import argparse
import importlib
import secrets
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import cast

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # started as a file, not as a module: tests are no packages
    sys.path.insert(0, str(ROOT))

from tests.faults.harness import Harness, Lines, Tally, report_lines  # noqa: E402

# In the order of docs/proof.md: the journal first, then whole gateways, the longest last.
MODULES = (
    "damage", "parsers", "quarantine", "lake_damage", "ingest_kill", "ingest_rivals",
    "journal_model", "crash_replay", "power_cut", "syscalls", "kill",
    "gateway_kill", "gateway_power", "signals", "disconnects", "disk_full", "disk_hang", "toxics", "api_fuzz",
    "pii", "load",
)  # fmt: skip


def harnesses() -> dict[str, Harness]:
    """All, by name."""
    modules = [importlib.import_module(f"tests.faults.{name}") for name in MODULES]
    return {module.NAME: cast("Harness", module) for module in modules}


def prove(harness: Harness, seed: int, cycles: int) -> tuple[Tally, float]:
    """(what was counted, seconds). An exception of the harness is a failure, not an end of the other proofs."""
    began = time.monotonic()
    print(f"{harness.NAME}: promise {harness.PROMISE}, {cycles:,} {harness.UNIT}, seed {seed}", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory(prefix=f"proof-{harness.NAME}-") as scratch:
            tally = harness.run(cycles, seed, Path(scratch), Lines(harness.NAME))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        tally = Tally(failures=[f"seed {seed}: {type(error).__name__}: {error} ({place.filename}:{place.lineno})"])
    return tally, time.monotonic() - began


def main(argv: Sequence[str] | None = None) -> int:
    known = harnesses()
    parser = argparse.ArgumentParser(description="Prove the promises of docs/proof.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of: {' '.join(known)}")
    parser.add_argument("--seed", type=int, help="first seed; default: a new one")
    parser.add_argument("--cycles", type=int, help="default: the full form")
    options = parser.parse_args(argv)
    wanted = known if options.names in ([], ["all"]) else options.names
    unknown = [name for name in wanted if name not in known]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}: choose from {', '.join(known)}")
    seed = secrets.randbelow(1_000_000_000) if options.seed is None else options.seed
    results: dict[str, tuple[Tally, float]] = {}
    for name in wanted:
        results[name] = prove(known[name], seed, known[name].FULL if options.cycles is None else options.cycles)
        print("\n".join(report_lines({name: results[name]})), file=sys.stderr, flush=True)
    print("\n".join(report_lines(results)))
    return 1 if any(tally.failures for tally, _ in results.values()) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # mounts and processes are taken down on the way out
    raise SystemExit(main())
