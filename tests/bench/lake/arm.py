"""One arm of the lake's bench in a process of its own; prints seconds and peak memory as a JSON line."""

from __future__ import annotations

import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson
import polars as pl

from lake.ingest import ingest
from lake.privacy.types import PII_TYPES
from lake.schemas.tables import REQUESTS
from lake.settings import LakeSettings


def scan(folder: Path) -> int:
    """Rows of the NDJSON as Parquet."""
    schema = dict(pl.DataFrame(REQUESTS.empty_table()).schema)
    for name in ("date", "segment", "seq", "record_version", "stored"):
        del schema[name]
    schema |= {"timestamp": pl.String(), "store": pl.Boolean(), "version": pl.Int32()}
    out = folder / "out" / "requests.parquet"
    out.parent.mkdir()
    lines = pl.scan_ndjson(folder / "requests.ndjson", schema=schema)
    lines.sink_parquet(out, compression="zstd", compression_level=3, row_group_size=32_768)
    return pl.scan_parquet(out).select(pl.len()).collect().item()


def take(folder: Path, masked: bool) -> int:
    """Rows that ingest added."""
    (folder / "out").mkdir()
    (folder / "out" / "journal").symlink_to(folder / "journal")
    off = "" if masked else ",".join(PII_TYPES)
    report = ingest(LakeSettings(data_dir=folder / "out", mask_off=off), datetime.now(UTC))
    assert report.total.closes and not report.odd_blocks and bool(report.masked) == masked
    return report.rows_added["requests"]


if __name__ == "__main__":
    arm, place = sys.argv[1], Path(sys.argv[2])
    began = time.perf_counter()
    rows = scan(place) if arm == "scan" else take(place, masked=arm == "masked")
    seconds = time.perf_counter() - began
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(orjson.dumps({"rows": rows, "seconds": seconds, "peak_mb": peak_mb}).decode())
