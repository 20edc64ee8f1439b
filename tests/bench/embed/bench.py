"""Embedding questions in batches, and the dense stage beside the bare FAISS call: `make bench NAME=embed`.

Embedding: the questions of the sample, each asked once, by 32 callers of an event loop through `QueryBatcher`, beside
the same with one question a call; and one caller through the batcher beside a plain call of the encoder.

Dense: `search_ann`, as the retriever calls it, beside FAISS's own `search` on the same index, k = 150. The bare call's
effort is raised until its recall@150 against the exact search is not below ours, or can't rise. Vectors: the sample's
passages, and as many as `--sizes` says, drawn around them; queries are the sample's questions.

Arms take turns within a round (one question each in the dense part), so that a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import faiss
import numpy as np
import orjson
import uvloop
from numpy.typing import NDArray

from lake.catalog import load_catalog
from lake.errors import InputError
from serving.ann import build_ann, exact_top, search_ann, stored_dtype
from serving.chunks import chunk_tool
from serving.encoders import Encoder, Vectors, load_encoder
from serving.query_batcher import QueryBatcher
from tests.bench.run import ROOT, Figure

CALLERS, EACH = 32, 4  # questions a caller asks one after another
ALONE = 40  # questions of the lone caller, a round
K = 150  # what the retriever asks for: 50 candidates of three passages
SPREAD = 0.5  # length of the noise beside a passage's 1: neighbours of a drawn vector are of many passages
_GROWTH = 1.05  # steps of the bare call's effort
_MAX_EF = 4096  # HNSW


def questions() -> list[str]:
    """All different questions of the sample, in a fixed order."""
    rows = [
        orjson.loads(line)["question"]
        for name in ("questions", "test")
        for line in (ROOT / f"data/sample/{name}.jsonl").read_bytes().splitlines()
    ]
    return list(dict.fromkeys(rows))


def passage_texts() -> list[str]:
    """What the index embeds of the sample catalogue."""
    tools = load_catalog(ROOT / "data/sample/catalog.jsonl").tools
    return [chunk.embedded(tool) for tool in tools for chunk in chunk_tool(0, tool)]


async def _crowd(batcher: QueryBatcher, texts: Sequence[str]) -> float:
    """Questions a second of `CALLERS` callers."""

    async def caller(mine: Sequence[str]) -> None:
        for text in mine:
            await batcher.embed(text)

    start = time.perf_counter()
    await asyncio.gather(*(caller(texts[number::CALLERS]) for number in range(CALLERS)))
    return len(texts) / (time.perf_counter() - start)


async def _alone(batcher: QueryBatcher, encoder: Encoder, texts: Sequence[str]) -> tuple[float, float]:
    """(p50 through the batcher, p50 of a plain call), ms; the two take turns question by question."""
    through: list[float] = []
    plain: list[float] = []
    for number, text in enumerate(texts):
        for which in ("batcher", "plain") if number % 2 else ("plain", "batcher"):
            start = time.perf_counter()
            if which == "batcher":
                await batcher.embed(text)
                through.append(time.perf_counter() - start)
            else:
                encoder.encode_queries([text])
                plain.append(time.perf_counter() - start)
    return statistics.median(through) * 1000, statistics.median(plain) * 1000


async def _embedding(encoder: Encoder, rounds: int) -> dict[str, list[float]]:
    texts = questions()
    if len(texts) < CALLERS * EACH:
        raise InputError(f"The sample has {len(texts)} questions, the bench asks {CALLERS * EACH} different ones.")
    batched, single = QueryBatcher(encoder), QueryBatcher(encoder, max_batch=1)
    found: dict[str, list[float]] = {"batched": [], "single": [], "through": [], "plain": [], "gain": [], "cost": []}
    try:
        await _crowd(batched, texts[:CALLERS])  # the first calls start threads
        for number in range(rounds):
            part = np.roll(np.array(texts, dtype=object), -number * CALLERS * EACH)[: CALLERS * EACH].tolist()
            rate = {}
            for arm in (batched, single) if number % 2 else (single, batched):
                rate[arm] = await _crowd(arm, part)
            through, plain = await _alone(batched, encoder, part[:ALONE])
            values = (rate[batched], rate[single], through, plain, rate[batched] / rate[single], through / plain)
            for name, value in zip(found, values, strict=True):
                found[name].append(value)
    finally:
        batched.close()
        single.close()
    return found


def _vectors(passages: Vectors, size: int) -> Vectors:
    """float32 [size, dim], length 1: the passages themselves where there are enough, else drawn around them."""
    if size <= len(passages):
        return passages[:size]
    draws = np.random.default_rng(20_261_125)
    noise = draws.normal(0, SPREAD / np.sqrt(passages.shape[1]), (size, passages.shape[1])).astype(np.float32)
    noise += passages[draws.integers(0, len(passages), size)]
    return np.ascontiguousarray(noise / np.linalg.norm(noise, axis=1, keepdims=True), dtype=np.float32)


def _recall(search: Callable[[Vectors], NDArray[np.int64]], queries: Vectors, truth: NDArray[np.int64]) -> float:
    hits = sum(len(set(search(query).tolist()) & set(row.tolist())) for query, row in zip(queries, truth, strict=True))
    return hits / truth.size


def _dense(
    vectors: NDArray[Any], queries: Vectors, rounds: int
) -> tuple[str, list[float], list[float], list[float], float]:
    """(kind and recalls, our µs, bare µs, ratio of rates, our recall) over `vectors`."""
    index, facts = build_ann(vectors, queries)
    truth = exact_top(vectors, queries, K)
    exact = facts.kind == "flat"

    def ours(query: Vectors) -> NDArray[np.int64]:
        return search_ann(index, vectors, query, K, exact=exact)[0]

    recall, bare_recall, effort, parameters = _recall(ours, queries, truth), 1.0, facts.effort, None

    def bare(query: Vectors) -> NDArray[np.int64]:
        return index.search(query.reshape(1, -1), K, params=parameters)[1][0]

    most = 0 if exact else _MAX_EF if facts.kind == "hnsw" else int(index.nlist)
    while not exact:
        parameters = (
            faiss.SearchParametersHNSW(efSearch=effort)
            if facts.kind == "hnsw"
            else faiss.SearchParametersIVF(nprobe=effort)
        )
        bare_recall = _recall(bare, queries, truth)
        if bare_recall >= recall or effort >= most:  # 8-bit codes alone may never reach it
            break
        effort = min(int(effort * _GROWTH) + 1, most)
    mine: list[float] = []
    theirs: list[float] = []
    for number in range(rounds):
        times: dict[Any, list[float]] = {ours: [], bare: []}
        for turn, query in enumerate(queries):
            for arm in (ours, bare) if (turn + number) % 2 else (bare, ours):
                start = time.perf_counter()
                arm(query)
                times[arm].append(time.perf_counter() - start)
        mine.append(statistics.median(times[ours]) * 1e6)
        theirs.append(statistics.median(times[bare]) * 1e6)
    ratio = [b / a for a, b in zip(mine, theirs, strict=True)]
    bare_effort = "" if exact else f" at effort {effort}"
    what = f"{facts.kind}, recall@{K} {recall:.3f}, bare {bare_recall:.3f}{bare_effort}"
    return what, mine, theirs, ratio, recall


def figures(rounds: int, arguments: Sequence[str]) -> Iterable[Figure]:
    """Throughput and latency of embedding, then the dense stage at each size."""
    parser = argparse.ArgumentParser(prog="embed")
    parser.add_argument("--sizes", type=int, nargs="*", default=[20_000, 100_000], help="vectors, beside the sample's")
    parser.add_argument("--only", choices=("embed", "dense"), default=None)
    options = parser.parse_args(list(arguments))
    encoder = load_encoder()
    if options.only != "dense":
        found = uvloop.run(_embedding(encoder, rounds))
        yield Figure(f"embed, {CALLERS} callers, batched", "1/s", found["batched"])
        yield Figure(f"embed, {CALLERS} callers, one question a call", "1/s", found["single"])
        yield Figure(f"embed, {CALLERS} callers, gain", "x", found["gain"], "one question a call", ">= 2")
        yield Figure("embed, one caller through the batcher, p50", "ms", found["through"])
        yield Figure("embed, one caller, plain call of the encoder, p50", "ms", found["plain"])
        yield Figure("embed, one caller, latency", "x", found["cost"], "plain call of the encoder", "<= 1.1")
    if options.only == "embed":
        return
    queries = encoder.encode_queries(questions()[:200])
    passages = encoder.encode_passages(passage_texts())
    for size in (len(passages), *options.sizes):
        vectors = _vectors(passages, size).astype(stored_dtype(size), copy=False)
        what, mine, theirs, ratio, _ = _dense(vectors, queries, rounds)
        yield Figure(f"dense, {size} vectors ({what}), p50", "us", mine)
        yield Figure(f"dense, {size} vectors, bare FAISS call, p50", "us", theirs)
        yield Figure(f"dense, {size} vectors, rate", "x", ratio, "bare FAISS call at equal recall", ">= 0.9")
