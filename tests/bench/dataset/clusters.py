"""Near-duplicate clusters: how fast, how right, and what a second build costs. Part of `make bench NAME=dataset`.

Both sides shingle in the same way (`lake.rules.shingles`). Ours is timed from text to clusters; rensa gets the
shingles ready and does MinHash and LSH (128 permutations, one pass of inserts, one of queries); datasketch gets
texts, and its MinHash takes our hashes as they are. Rates are questions a second of one run each round, the arms
taking turns.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
import orjson
import rensa
from datasketch import MinHash, MinHashLSH

from lake.rules.near import NearIndex
from lake.rules.shingles import I64, normalise_questions, question_keys, shingle, shingle_normalised
from lake.rules.split import assign
from lake.split_store import SplitStore
from tests.bench.dataset.corpus import planted, questions
from tests.bench.run import ROOT, Figure, interleaved

THRESHOLD = 0.45
HARD = (2, 5)  # words of a question: short ones share most of what they say with their ending
_PEER_SHARE = 10  # datasketch gets a tenth of the questions: its rate does not depend on their number


def labels_of(texts: list[str], threshold: float) -> I64:
    """Cluster of each text: exact duplicates first, then what is near."""
    normal = normalise_questions(texts)
    distinct = list(dict.fromkeys(normal))
    index = NearIndex(shingle_normalised(distinct), threshold)
    labels = dict(zip(distinct, index.labels(np.arange(len(distinct))).tolist(), strict=True))
    return np.array([labels[text] for text in normal])


def _rate(work: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def _arms(texts: list[str], threshold: float) -> dict[str, Callable[[], float]]:
    ready = shingle(texts)
    hashes, offsets = ready.hashes.astype(np.uint64), ready.offsets.astype(np.uint64)
    few = texts[: max(len(texts) // _PEER_SHARE, 1)]
    api = cast(Any, rensa)  # the package ships no type hints

    def with_rensa() -> object:
        digests = api.RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, 128, 1)
        index = api.RMinHashLSH(threshold, 128, 32)
        index.insert_matrix(digests, 0)
        return index.query_duplicate_flags_matrix(digests)

    def with_datasketch() -> None:
        index = MinHashLSH(threshold=threshold, num_perm=128)
        minhashes: list[MinHash] = []
        for number, row in enumerate(shingle(few).rows()):
            minhash = MinHash(num_perm=128, hashfunc=int)
            minhash.update_batch(row.tolist())
            index.insert(number, minhash)
            minhashes.append(minhash)
        for minhash in minhashes:
            index.query(minhash)

    return {
        "ours": lambda: _rate(lambda: labels_of(texts, threshold), len(texts)),
        "rensa": lambda: _rate(with_rensa, len(texts)),
        "datasketch": lambda: _rate(with_datasketch, len(few)),
    }


def quality(texts: list[str], plants: list[tuple[int, str]], threshold: float) -> tuple[float, float]:
    """Precision (pairs within clusters that were planted) and recall (plants in their original's cluster)."""
    labels = labels_of([*texts, *(text for _, text in plants)], threshold)
    origin = np.concatenate([np.arange(len(texts)), np.array([place for place, _ in plants], dtype=np.int64)])

    def pairs(codes: I64) -> int:
        sizes = np.unique(codes, return_counts=True)[1]
        return int((sizes * (sizes - 1) // 2).sum())

    together = pairs(labels)
    right = pairs(np.unique(np.stack([labels, origin]), axis=1, return_inverse=True)[1])
    found = float(np.mean(labels[len(texts) :] == labels[origin[len(texts) :]]))
    return right / max(together, 1), found


def two_builds(count: int, folder: Path, threshold: float) -> dict[str, float]:
    """Seconds of a first split of `count` questions, of one with a tenth more, and of one without news; peak GiB."""
    texts = questions(count + count // 10, seed=5)
    keys, tests = question_keys(texts), questions(170, seed=6)
    store = SplitStore(folder)

    def build(number: int, known: list[str] | None) -> float:
        start = time.perf_counter()
        result = assign(texts[:number], tests, store.load(), 1, 0.1, threshold, keys=known)
        store.save(result.book)
        return time.perf_counter() - start

    first, second = build(count, None), build(len(texts), keys)
    third = build(len(texts), keys)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    size = sum(path.stat().st_size for path in store.files()) / 2**20
    return {"first_s": first, "second_s": second, "third_s": third, "peak_gib": peak, "store_mib": size}


def _child(count: int, threshold: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.bench.dataset.clusters", str(count), str(threshold), folder]
        return orjson.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def figures(rounds: int, count: int, large: int, threshold: float = THRESHOLD) -> Iterable[Figure]:
    """Rates and quality on `count` questions; two builds of `count` and of `large` (0: left out) in processes."""
    texts = questions(count)
    measured = interleaved(_arms(texts, threshold), rounds)
    for arm, values in measured.items():
        yield Figure(f"clusters of {count:,} questions, {arm}", "1/s", values)
    for peer, goal in (("rensa", ">= 0.3"), ("datasketch", ">= 5")):
        ratio = [ours / other for ours, other in zip(measured["ours"], measured[peer], strict=True)]
        against = "rensa, shingles ready" if peer == "rensa" else "datasketch, text in"
        yield Figure("text in, clusters out", "ratio", ratio, against, goal)
    for name, some in (("", texts), (", short", questions(count, words=HARD))):
        precision, recall = quality(some, planted(some, max(count // 10, 1)), threshold)
        goals = (">= 0.95", ">= 0.94") if not name else ("", "")
        yield Figure(f"planted near-duplicates{name}: precision", "", [precision], f"threshold {threshold}", goals[0])
        yield Figure(f"planted near-duplicates{name}: recall", "", [recall], f"threshold {threshold}", goals[1])
    for size in (count, large):
        if size:
            built = _child(size, threshold)
            name = f"split of {size:,} questions"
            yield Figure(f"{name}: first", "s", [built["first_s"]])
            ratio = built["second_s"] / built["first_s"]
            yield Figure(f"{name}: a tenth more", "ratio", [ratio], "the first", "<= 0.2")
            yield Figure(f"{name}: nothing new", "s", [built["third_s"]])
            yield Figure(f"{name}: peak memory", "GiB", [built["peak_gib"]], "", "<= 4")
            yield Figure(f"{name}: book on disk", "MiB", [built["store_mib"]])


if __name__ == "__main__":
    print(orjson.dumps(two_builds(int(sys.argv[1]), Path(sys.argv[3]), float(sys.argv[2]))).decode())
