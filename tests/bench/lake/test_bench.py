"""The lake's bench on small logs: both forms hold the same records, every arm takes them all, peaks are told."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from lake.journal.frames import Frame, scan
from lake.schemas.records import FrameKind
from tests.bench.run import load_bench


def test_figures_of_small_logs(tmp_path: Path) -> None:
    bench = load_bench("lake")
    found = bench.figures(1, ["--size", "2", "--flat", "1,2", "--folder", str(tmp_path)])
    named = {figure.figure: figure for figure in found}
    assert {"ingest / scan", "masked / scan", "peak memory at 2 MB"} <= named.keys()
    assert all(figure.value > 0 for figure in found) and list(tmp_path.iterdir()) == []


def test_journal_and_ndjson_hold_the_same_requests(tmp_path: Path) -> None:
    logs = load_bench("lake").logs
    size = logs.write(300_000, 1, tmp_path, 0.5)
    segments = sorted((tmp_path / "journal").rglob("*.mjl"))
    frames = [one for path in segments for one in scan(path.read_bytes()) if isinstance(one, Frame)]
    lines = pl.read_ndjson(tmp_path / "requests.ndjson", infer_schema_length=None)
    assert size >= 250_000 and len(frames) == 2 * lines.height
    assert sum(one.kind == FrameKind.REQUEST for one in frames) == lines["request_id"].n_unique()
    assert [one.seq for one in frames] == list(range(1, len(frames) + 1))
