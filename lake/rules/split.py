"""Which side of the train / hold-out split a question lies on: decided once, for its whole cluster, for life.

Reads and returns `SplitBook`, the decisions of earlier builds (data/datasets/splits.json). A question that is
in the book keeps its side. A new one takes the side of its near neighbours; where it has none, a seeded hash
of its cluster's smallest member decides. A question near both sides is dropped, so that clusters of opposite
sides never merge, and so is one near a test question. Pure but for `load_book` and `save_book`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import orjson

from lake.errors import DatasetError
from lake.files import write_bytes_atomic
from lake.rules.cluster import NearPairs, cluster_ids, components, near_pairs
from lake.rules.shingles import SHINGLING, normalise_question, question_key, shingle

Side = Literal["train", "holdout"]
BOOK_VERSION = 1
MIN_CLUSTERS_FOR_HOLDOUT = 5  # below that a hold-out of one cluster would cost too much of the training data


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided for one question; `text` is its normalised form, needed to find later neighbours."""

    side: Side
    cluster_id: str
    text: str


@dataclass(frozen=True)
class SplitBook:
    """Decisions by question key."""

    decisions: Mapping[str, Decision] = field(default_factory=dict[str, Decision])


@dataclass(frozen=True)
class Assignment:
    """Sides of the questions that may enter, reasons of those that may not, and the grown book."""

    decided: dict[str, Decision]
    rejected: dict[str, str]  # question key -> bridges_split | near_test | empty_question
    book: SplitBook
    method: str


def draw(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on seed and key only."""
    digest = hashlib.sha256(f"split:{seed}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _neighbours(pairs: NearPairs) -> dict[int, list[int]]:
    near: dict[int, list[int]] = defaultdict(list)
    for a, b, _ in pairs.tuples():
        near[a].append(b)
        near[b].append(a)
    return near


def _draw_sides(
    new: list[int], near: Mapping[int, list[int]], keys: Sequence[str], seed: int, share: float, known: set[Side]
) -> dict[int, Side]:
    """Sides of the clusters that touch nothing decided; `known` are the sides that exist already."""
    place = {node: position for position, node in enumerate(new)}
    edges = [(place[a], place[b]) for a in new for b in near.get(a, ()) if b in place]
    roots = components(len(new), edges)  # `new` is sorted by key, so a root is its cluster's smallest member
    draws = {root: draw(seed, keys[new[root]]) for root in set(roots)}
    held = {root for root, value in draws.items() if value < share}
    if "holdout" not in known and share > 0 and not held and len(draws) >= MIN_CLUSTERS_FOR_HOLDOUT:
        held = {min(draws, key=lambda root: draws[root])}
    if "train" not in known and len(held) == len(draws):  # a handful of clusters, all of them drawn
        held.discard(max(draws, key=lambda root: draws[root]))
    return {node: "holdout" if root in held else "train" for node, root in zip(new, roots, strict=True)}


def assign(
    questions: Sequence[str],
    test_questions: Sequence[str],
    book: SplitBook,
    seed: int,
    holdout_share: float,
    threshold: float,
) -> Assignment:
    """Decide every question (any order, repeats allowed). Same questions and book, same result."""
    current = {question_key(question): normalise_question(question) for question in questions}
    rejected = {key: "empty_question" for key, text in current.items() if not text}
    tests = {question_key(question): normalise_question(question) for question in test_questions}
    texts = {key: decision.text for key, decision in book.decisions.items()}
    texts |= {key: text for key, text in current.items() if text}
    keys = sorted(texts)
    test_keys = sorted(key for key, text in tests.items() if text)
    pairs = near_pairs(shingle([texts[key] for key in keys] + [tests[key] for key in test_keys]), threshold)
    near = _neighbours(pairs)

    def is_test(node: int) -> bool:
        return node >= len(keys)

    live: list[int] = []
    for node, key in enumerate(keys):
        if key not in current:
            continue
        if key in tests or any(is_test(other) for other in near.get(node, ())):
            rejected[key] = "near_test"
        else:
            live.append(node)

    sides: dict[int, Side] = {node: book.decisions[key].side for node, key in enumerate(keys) if key in book.decisions}

    def beside(node: int) -> set[Side]:
        return {sides[other] for other in near.get(node, ()) if other in sides}

    # A lower threshold than in earlier builds can bring decided questions of both sides near each other:
    # the hold-out keeps its row, the training side loses it.
    for node in live:
        if sides.get(node) == "train" and "holdout" in beside(node):
            rejected[keys[node]] = "bridges_split"

    # New questions, nearest to the decided ones first. Each sees the sides of all its decided neighbours, so
    # no two questions of opposite sides are ever near each other.
    waiting = [node for node in live if node not in sides]
    known = set(sides.values())
    while waiting:
        ready = [node for node in waiting if beside(node)]
        if not ready:
            sides |= _draw_sides(waiting, near, keys, seed, holdout_share, known)
            break
        for node in ready:
            around = beside(node)
            if len(around) == 1:
                sides[node] = next(iter(around))
            else:
                rejected[keys[node]] = "bridges_split"
        waiting = [node for node in waiting if node not in sides and keys[node] not in rejected]

    members = sorted(sides)
    place = {node: position for position, node in enumerate(members)}
    edges = [(place[a], place[b]) for a in members for b in near.get(a, ()) if b in place]
    same_side = [(a, b) for a, b in edges if sides[members[a]] == sides[members[b]]]
    ids = cluster_ids(
        [keys[node] for node in members],
        same_side,
        lambda key: book.decisions[key].cluster_id if key in book.decisions else None,
    )
    everything = {
        keys[node]: Decision(sides[node], cluster_id, texts[keys[node]])
        for node, cluster_id in zip(members, ids, strict=True)
    }
    decided = {key: everything[key] for key in current if key in everything and key not in rejected}
    return Assignment(decided, rejected, SplitBook(everything), pairs.method)


def load_book(path: Path) -> SplitBook:
    """The decisions of earlier builds; empty where there are none. Raises `DatasetError` if unreadable."""
    if not path.exists():
        return SplitBook()
    try:
        value = orjson.loads(path.read_bytes())
        if value["version"] != BOOK_VERSION or value["shingling"] != SHINGLING:
            raise ValueError(f"version {value['version']}, shingling {value['shingling']}")
        decisions = {key: Decision(**one) for key, one in value["decisions"].items()}
        if any(one.side not in ("train", "holdout") for one in decisions.values()):
            raise ValueError("a side is neither train nor holdout")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"{path} can't be read ({error}): restore it from a backup; without it a later build could move "
            "held-out questions into training. Delete it only together with all datasets and adapters.",
            path=str(path),
        ) from error
    return SplitBook(decisions)


def save_book(path: Path, book: SplitBook) -> None:
    """Write the decisions in one step, sorted: same book, same bytes."""
    value = {
        "version": BOOK_VERSION,
        "shingling": SHINGLING,
        "decisions": {
            key: {"side": one.side, "cluster_id": one.cluster_id, "text": one.text}
            for key, one in book.decisions.items()
        },
    }
    option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    write_bytes_atomic(path, orjson.dumps(value, option=option))
