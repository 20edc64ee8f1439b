"""How a catalogue of 900,000 tools builds and serves: `make bench NAME=index`, or with `-- --tools 20000`.

Writes a made catalogue (catalogue.py) as JSON Lines, builds its index in a process of its own, then opens it in another
one and asks. Memory is the peak of each process, mapped pages included; the goal is 8 GiB. Vectors come from a quick
stand-in for the encoder: the real one's rate is measured on 2,000 of the passages and the whole is reckoned from it, as
a figure of its own. `--keep FOLDER` leaves the index there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from lake.catalog import spool_catalog
from lake.progress import Progress
from serving.chunks import chunk_tool
from serving.encoders import load_encoder
from serving.index import build_index, load_index
from serving.index_queries import realistic_questions
from serving.rerank import LinearReranker
from serving.retriever import Retriever
from tests.bench.index.catalogue import WordEncoder, tools
from tests.bench.run import ROOT, Figure

_GIB = 2**30
_ASKED = 100


def peak_gib() -> float:
    """Most memory that this process has had, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB


def build(catalog: Path, index_dir: Path) -> dict[str, Any]:
    """One build from a catalogue file, as `flows.index` makes it."""
    start = time.perf_counter()

    def announce(stage: str, total: int) -> Progress:
        return Progress(None, stage, total, say=lambda line: print(line, file=sys.stderr, flush=True))

    with tempfile.TemporaryDirectory(dir=index_dir) as spool:
        loaded = spool_catalog(catalog, Path(spool))
        read_s = time.perf_counter() - start
        manifest = build_index(loaded.tools, loaded.version, WordEncoder(), index_dir, announce)
    size = sum(entry["bytes"] for entry in manifest.files.values())
    return {
        "read_s": read_s, "seconds": manifest.seconds, "whole_s": time.perf_counter() - start, "peak_gib": peak_gib(),
        "passages": manifest.n_chunks, "ann": manifest.ann, "embedded": manifest.embedded, "gib": size / _GIB,
    }  # fmt: skip


def serve(index_dir: Path) -> dict[str, Any]:
    """Open the index and ask it."""
    start = time.perf_counter()
    index = load_index(index_dir)
    load_s = time.perf_counter() - start
    encoder = WordEncoder()
    retriever = Retriever(index, encoder, LinearReranker.from_file(ROOT / "configs/reranker.json"))
    questions = realistic_questions(index.tools, _ASKED, seed=5)
    plain, filtered = [], []
    category = index.tools[0].category
    for question in questions:
        plain.append(sum(retriever.search(question).latency_ms.values()))
        filtered.append(sum(retriever.search(question, categories=frozenset({category})).latency_ms.values()))
    return {
        "load_s": load_s, "peak_gib": peak_gib(), "p50_ms": float(np.median(plain)),
        "p95_ms": float(np.percentile(plain, 95)), "filtered_p50_ms": float(np.median(filtered)),
    }  # fmt: skip


def _child(what: str, *arguments: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.bench.index.bench", what, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE, check=True)
    return orjson.loads(done.stdout.splitlines()[-1])


def real_rate(sample: int) -> float:
    """Passages a second of the bundled encoder, on every core."""
    passages = [chunk.embedded(tool) for tool in tools(sample) for chunk in chunk_tool(0, tool)][:sample]
    encoder = load_encoder()
    encoder.encode_passages(passages[:64])
    start = time.perf_counter()
    for first in range(0, len(passages), 64):
        encoder.encode_passages(passages[first : first + 64])
    return len(passages) / (time.perf_counter() - start)


def figures(rounds: int, arguments: Sequence[str]) -> Iterable[Figure]:
    """One build and one service; nothing of this size is repeated."""
    del rounds
    parser = argparse.ArgumentParser(prog="index")
    parser.add_argument("--tools", type=int, default=900_000)
    parser.add_argument("--passages", type=int, default=2_000, help="how many the bundled encoder embeds for its rate")
    parser.add_argument("--keep", type=Path, default=None)
    options = parser.parse_args(list(arguments))
    folder = options.keep or Path(tempfile.mkdtemp(prefix="index-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{options.tools:,} tools"
    try:
        catalog = folder / "catalog.jsonl"
        with catalog.open("wb") as handle:
            for tool in tools(options.tools):
                handle.write(orjson.dumps(asdict(tool), option=orjson.OPT_APPEND_NEWLINE))
        (folder / "index").mkdir(exist_ok=True)
        built = _child("build", catalog, folder / "index")
        again = _child("build", catalog, folder / "index")
        served = _child("serve", folder / "index")
        rate = real_rate(options.passages)
    finally:
        if options.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    yield Figure(f"{name}, build: peak memory", "GiB", [built["peak_gib"]], "", "<= 8")
    yield Figure(f"{name}, service: peak memory", "GiB", [served["peak_gib"]], "", "<= 8")
    for stage, seconds in {"read": built["read_s"], **built["seconds"], "whole": built["whole_s"]}.items():
        yield Figure(f"{name}, build: {stage}", "s", [seconds])
    yield Figure(f"{name}, the same catalogue again", "s", [again["whole_s"]])
    yield Figure(f"{name}, index on disk", "GiB", [built["gib"]])
    ann = built["ann"]
    yield Figure(
        f"{name}, {ann['kind']} at effort {ann['effort']}: recall@10", "", [ann["recall_at_10"]], "exact", ">= 0.95"
    )
    yield Figure(f"{name}, service: opened and verified", "s", [served["load_s"]])
    yield Figure(f"{name}, a question without embedding, p50", "ms", [served["p50_ms"]], "", "<= 100")
    yield Figure(f"{name}, a question without embedding, p95", "ms", [served["p95_ms"]])
    yield Figure(f"{name}, a question within a category, p50", "ms", [served["filtered_p50_ms"]])
    yield Figure("bundled encoder: passages", "1/s", [rate])
    yield Figure(f"{name}, embedding with the bundled encoder, reckoned", "h", [built["passages"] / rate / 3600])


if __name__ == "__main__":
    where = [Path(argument) for argument in sys.argv[2:]]
    print(json.dumps(build(*where) if sys.argv[1] == "build" else serve(*where)))
