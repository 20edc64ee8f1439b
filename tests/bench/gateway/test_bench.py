"""The bench of the gateway runs: every process starts, answers and ends, every figure is measured. None is judged."""

from __future__ import annotations

import math
from pathlib import Path

from tests.bench.gateway.processes import peer_program
from tests.bench.run import load_bench

GOALS = {
    ("added latency, journal off", "pass-through"): "<= 1.5",
    ("sync on top of journal off, 1 connection", "bare fdatasync"): "<= 1.5",
    ("requests/s, 16 connections, sync", "pass-through"): ">= 0.6",
    ("requests/s, 64 connections, sync", "journal off"): ">= 0.85",
}


def test_a_tiny_round_measures_every_figure() -> None:
    figures = list(load_bench("gateway").figures(1, ["--seconds", "0.5", "--no-peers"]))
    found = {(figure.figure, figure.against): figure for figure in figures}
    assert {key: found[key].goal for key in GOALS} == GOALS
    assert all(math.isfinite(figure.value) for figure in figures)
    assert all(figure.value > 0 for figure in figures if figure.unit in ("1/s", "ratio"))
    scratch = Path(__file__).resolve().parents[3] / ".bench"
    assert not list(scratch.glob("gateway-*")), "a run leaves nothing behind"


def test_a_peer_that_was_not_made_is_not_there() -> None:
    assert peer_program("no_such_peer", "nothing") is None
