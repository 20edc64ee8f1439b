"""A million log rows from lake to dataset on this machine: time of each stage, peak memory. Not timed by a test.

Writes a seeded lake of made-up requests with five retrieved tools each into a new folder (of some GB; removed at the
end), a small share of them labelled, and builds a dataset in a process of its own, whose peak memory is read at its
end. The tokenizer is that of the bundled base where it is there, else an estimate.

    python tests/bench/dataset/build_bench.py --rows 1000000 --folder /tmp/mulle-bench
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from flows.steps.build import BuildInputs, run_build
from flows.steps.build_config import BuildConfig
from lake import house_style
from lake.catalog import load_catalog
from lake.prompt import PromptBuilder
from lake.rules.depth import Lineage
from lake.schemas.rows import Tool
from lake.schemas.tables import RETRIEVED_ITEM, TABLES
from lake.tables import append
from serving.tokens import token_counter

ROOT = Path(__file__).resolve().parents[3]
CATALOG = ROOT / "data" / "sample" / "catalog.jsonl"
TOKENIZER = ROOT / "models" / "base" / "gemma3-270m" / "hf" / "tokenizer.json"
CHUNK = 50_000
START = datetime(2026, 1, 1, tzinfo=UTC)
LABELLED = {"up": 0.03, "down": 0.01, "corrected": 0.01, "taught": 0.01, "golden": 0.002}  # shares of the requests


def _words(tools: list[Tool]) -> list[str]:
    found = {word for tool in tools for text in (tool.text("ko"), tool.text("en")) for word in text.split()}
    return sorted(word.strip(".,()") for word in found if len(word) > 1)


def _items(tools: list[Tool]) -> list[dict[str, Any]]:
    return [
        {
            "rank": 1, "score": 0.5, "id": tool.id, "name": tool.name, "url": tool.url, "description": tool.description,
            "chunk_text": tool.text("en"), "tags": list(tool.tags), "category": tool.category,
            "scores": {"dense": 0.5, "lexical": 0.5, "rerank": None},
        }
        for tool in tools
    ]  # fmt: skip


def make_lake(lake_dir: Path, rows: int, seed: int) -> dict[str, int]:
    """A lake of `rows` requests and their labels; how many there are of each table."""
    tools = list(load_catalog(CATALOG).tools)
    words, pool = _words(tools), pa.array(_items(tools), type=RETRIEVED_ITEM)
    chance = random.Random(seed)
    counts = {"requests": 0, "feedback": 0, "teacher_labels": 0, "reviews": 0}
    for first in range(0, rows, CHUNK):
        numbers = range(first, min(first + CHUNK, rows))
        picked = [chance.sample(range(len(tools)), 5) for _ in numbers]
        questions = [" ".join(chance.choices(words, k=7)) for _ in numbers]
        flat: Any = pool.take(pa.array([one for five in picked for one in five]))
        items = pa.ListArray.from_arrays(pa.array([5 * n for n in range(len(numbers) + 1)], pa.int32()), flat)
        answers = [_answer(tools[five[0]], text) for five, text in zip(picked, questions, strict=True)]
        times = [START + timedelta(seconds=n // 3) for n in numbers]
        ids = [f"01BENCH{n:019d}" for n in numbers]
        columns: dict[str, Any] = {
            "date": [at.date().isoformat() for at in times], "request_id": ids, "timestamp": times,
            "user_query": questions, "retrieved_items": items, "llm_response_content": answers,
            "outcome": ["answered"] * len(ids), "finish_reason": ["stop"] * len(ids), "segment": ["w/1"] * len(ids),
            "seq": list(numbers), "record_version": [2] * len(ids), "key_id": [f"k{n % 997}" for n in numbers],
            "model": ["gemma-3-270m"] * len(ids), "backend": ["vllm"] * len(ids),
        }  # fmt: skip
        schema = TABLES["requests"]
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns and field.name != "retrieved_items"
            else items.cast(field.type) if field.name == "retrieved_items" else pa.nulls(len(ids), field.type)
            for field in schema
        ]  # fmt: skip
        append(lake_dir, "requests", pa.Table.from_arrays(arrays, schema=schema))
        counts["requests"] += len(ids)
        for name, made in _labels(chance, ids, times, questions, answers, picked, tools).items():
            if made:
                append(lake_dir, name, made)
                counts[name] += len(made)
    return counts


def _answer(tool: Tool, question: str) -> str:
    korean = any("가" <= char <= "힣" for char in question)
    reason = "설명이 질문과 맞습니다." if korean else "Its description fits the question."
    return house_style.render("ko" if korean else "en", tool.name, reason, tool.url)


def _labels(
    chance: random.Random, ids: list[str], times: list[datetime], questions: list[str], answers: list[str],
    picked: list[list[int]], tools: list[Tool],
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    made: dict[str, list[dict[str, Any]]] = {"feedback": [], "teacher_labels": [], "reviews": []}
    for number, one in enumerate(ids):
        draw, at = chance.random(), times[number]
        kind = ""
        for name, share in LABELLED.items():
            if 0 <= draw < share:
                kind = name
            draw -= share
        second = tools[picked[number][1]]
        better = _answer(second, questions[number])
        if kind in ("up", "down", "corrected"):
            made["feedback"].append(
                {
                    "feedback_id": f"f{one}", "timestamp": at, "request_id": one, "segment": "w/1", "seq": number,
                    "thumb": None if kind == "corrected" else kind, "record_version": 2, "key_id": f"k{number % 997}",
                    "corrected_answer": better if kind == "corrected" else None,
                }
            )  # fmt: skip
        elif kind == "taught":
            made["teacher_labels"].append(
                {
                    "label_id": f"t{one}", "timestamp": at, "run_id": "bench", "request_id": one, "model": "large",
                    "question": questions[number], "answer": better, "tools": [second.id], "finish_reason": "stop",
                }
            )  # fmt: skip
        elif kind == "golden":
            made["reviews"].append(
                {
                    "review_id": f"r{one}", "timestamp": at, "request_id": one, "question": questions[number],
                    "answer": better, "tools": [second.id], "also": [], "segment": "w/1", "seq": number,
                    "record_version": 2,
                }
            )  # fmt: skip
    return made


def build(folder: Path, unlabelled: str) -> dict[str, Any]:
    """One build of the folder's lake; with its peak memory in GiB."""
    tools = list(load_catalog(CATALOG).tools)
    counter = token_counter(TOKENIZER if TOKENIZER.exists() else None)
    given = BuildInputs(
        PromptBuilder(counter.count, 320, 3), ROOT / "data" / "sample" / "test.jsonl", tools,
        Lineage(frozenset({"gemma-3-270m"})),
    )  # fmt: skip
    config = BuildConfig(unlabelled=unlabelled, own_share=1.0 if unlabelled == "served" else 0.5)  # type: ignore[arg-type]
    started = time.perf_counter()
    report = run_build(folder / "lake", folder / "datasets", given, config, say=lambda line: print(line, flush=True))
    counts = orjson.loads((Path(report["path"]) / "manifest.json").read_bytes())["counts"]
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "stages_s": report["seconds"],
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20), 2),
        "counts": counts,
        "drops": report["drops"],
        "exact_tokenizer": counter.exact,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--folder", type=Path, required=True, help="new folder for lake and dataset, removed at the end"
    )
    parser.add_argument("--unlabelled", choices=("drop", "served"), default="drop")
    parser.add_argument("--seed", type=int, default=20_260_101)
    parser.add_argument("--only-build", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only_build:
        print(orjson.dumps(build(given.folder, given.unlabelled)).decode())
        return
    given.folder.mkdir(parents=True)
    try:
        started = time.perf_counter()
        tables = make_lake(given.folder / "lake", given.rows, given.seed)
        print(orjson.dumps({"lake": tables, "made_s": round(time.perf_counter() - started, 1)}).decode(), flush=True)
        options = ["--folder", str(given.folder), "--unlabelled", given.unlabelled, "--only-build"]
        subprocess.run([sys.executable, __file__, *options], check=True)
    finally:
        shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
