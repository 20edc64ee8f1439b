"""Ingest beside polars' bare scan → sink of the same records: same bytes, codec, threads, one run.

    .venv/bin/python tests/bench/run.py lake [--size 300] [--flat 200,1000]

Arms, each in a process of its own, interleaved: `scan` reads the records as NDJSON with an explicit schema and sinks
one zstd Parquet file; `ingest` takes the same records from a journal (checksums, halves joined, types and values
checked, ids de-duplicated, partitioned, committed and synced, ledger closed); `masked` is ingest of the same records
with personal data masked. `--flat`: sizes (MB) whose peak memory must be the same within 15 %; the smaller
should be some blocks (64 MB each) long.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from tests.bench.run import ROOT, Figure, interleaved

sys.path.insert(0, str(Path(__file__).parent))
import logs

ARMS = ("scan", "ingest", "masked")
SEED = 20_261_125
PERSONAL = 0.1  # share of questions with personal data
_CHILD = Path(__file__).with_name("arm.py")


def figures(rounds: int, arguments: Sequence[str]) -> list[Figure]:
    """Rates (MB/s of NDJSON), their ratios to the bare scan, and peak memory at two sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=300, help="MB of logs for the rates")
    parser.add_argument("--flat", default="200,1000", help="two sizes in MB for the peaks; empty: none")
    parser.add_argument("--folder", type=Path, help="where the logs lie meanwhile; default: the temporary folder")
    options = parser.parse_args(arguments)
    found: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="bench-lake-", dir=options.folder) as name:
        folder = Path(name)
        found += _rates(rounds, options.size, folder)
        if options.flat:
            found += _peaks([int(size) for size in options.flat.split(",")], folder)
    return found


def _rates(rounds: int, size_mb: int, folder: Path) -> list[Figure]:
    size = logs.write(size_mb * 1_000_000, SEED, folder / "rates", PERSONAL)
    values = interleaved(
        {arm: lambda arm=arm: size / 1e6 / _run(arm, folder / "rates")["seconds"] for arm in ARMS}, rounds
    )
    found = [Figure(f"{arm}, {size_mb} MB", "MB/s", values[arm]) for arm in ARMS]
    for arm, goal in (("ingest", ">= 0.7"), ("masked", ">= 0.25")):
        ratios = [ours / bare for ours, bare in zip(values[arm], values["scan"], strict=True)]
        found.append(Figure(f"{arm} / scan", "x", ratios, "polars scan_ndjson → sink_parquet", goal))
    shutil.rmtree(folder / "rates")
    return found


def _rate(arm: str, folder: Path, size: int) -> float:
    return size / 1e6 / _run(arm, folder)["seconds"]


def _peaks(sizes: Sequence[int], folder: Path) -> list[Figure]:
    found: list[Figure] = []
    peaks: list[float] = []
    for size_mb in sizes:
        logs.write(size_mb * 1_000_000, SEED, folder / "peak", PERSONAL)
        told = _run("masked", folder / "peak")
        shutil.rmtree(folder / "peak")
        peaks.append(told["peak_mb"])
        found.append(Figure(f"peak memory of masked ingest, {size_mb} MB", "MB", [told["peak_mb"]]))
        found.append(Figure(f"masked ingest, {size_mb} MB", "s", [told["seconds"]]))
    against = f"{sizes[0]} MB of logs"
    return [*found, Figure(f"peak memory at {sizes[-1]} MB", "x", [peaks[-1] / peaks[0]], against, "<= 1.15")]


def _run(arm: str, folder: Path) -> dict[str, Any]:
    """One arm in a new process: seconds of its work, peak memory (MB)."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(_CHILD), arm, str(folder)],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    print(f"  {arm}: {told}", file=sys.stderr, flush=True)
    return told
