"""A model of the split over many builds: whatever is added, removed, reordered, forgotten or killed, no row crosses.

Also with every comparison through LSH (`exact_cells=0`), where the last step before a dataset drops what LSH missed.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lake import split_store
from lake.rules.certificate import touching
from lake.rules.cluster import near_pairs
from lake.rules.keys import to_hex
from lake.rules.shingles import question_key, shingle
from lake.rules.split import Assignment, assign
from lake.split_store import SplitStore

_SYLLABLES = (
    "가나다라마바사아자차카타파하거너더러머버서어저처커터퍼허고노도로모보소오조초코토포호구누두루무부수우주추쿠투푸후"
)
WORDS = ["".join(random.Random(number).choices(_SYLLABLES, k=3)) for number in range(200)]
SEED, SHARE = 5, 0.3


class Killed(BaseException):
    """The process is gone."""


class SplitOverTime(RuleBasedStateMachine):
    exact_cells = 10_000_000

    @initialize(seed=st.integers(0, 1_000_000))
    def start(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.folder = Path(tempfile.mkdtemp(prefix="mulle-split-"))
        self.texts: list[str] = []
        self.synthetic: set[str] = set()
        self.tests: list[str] = []
        self.threshold = 0.4
        self.shown: dict[str, str] = {}  # side that a dataset, or a saved book, has shown for a question
        self.dataset: tuple[list[str], list[str]] = ([], [])

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _new_text(self) -> str:
        if all(self.dataset) and self.chance.random() < 0.2:  # near both sides
            return " ".join(self.chance.choice(side) for side in self.dataset)
        if self.texts and self.chance.random() < 0.6:  # near what is there, sometimes near two of them
            parts = self.chance.sample(self.texts, k=min(len(self.texts), self.chance.choice((1, 1, 2))))
            words = " ".join(parts).split()[:12]
            words[self.chance.randrange(len(words))] = self.chance.choice(WORDS)
            return " ".join(words)
        return " ".join(self.chance.choices(WORDS, k=self.chance.randint(3, 6)))

    @rule(count=st.integers(3, 15), synthetic=st.booleans())
    def ask(self, count: int, synthetic: bool) -> None:
        for _ in range(count):
            text = self._new_text()
            if synthetic and text not in self.texts:
                self.synthetic.add(text)
            elif not synthetic:
                self.synthetic.discard(text)
            self.texts.append(text)

    @rule(count=st.integers(5, 15))
    def ask_and_build(self, count: int) -> None:
        self.ask(count, False)
        self.build(None)

    @rule()
    def reorder(self) -> None:
        self.chance.shuffle(self.texts)

    @rule(share=st.floats(0.1, 0.9))
    def remove(self, share: float) -> None:
        self.texts = [text for text in self.texts if self.chance.random() > share]

    @rule(threshold=st.sampled_from([0.3, 0.4, 0.5, 0.7]))
    def other_threshold(self, threshold: float) -> None:
        self.threshold = threshold

    @rule()
    def another_test_question(self) -> None:
        self.tests.append(self._new_text())

    @rule()
    def forget(self) -> None:
        keys = to_hex(SplitStore(self.folder).load().keys)
        gone = self.chance.sample(keys, k=min(len(keys), 2))
        assert SplitStore(self.folder).forget(gone) == len(gone)
        self.shown = {key: side for key, side in self.shown.items() if key[:32] not in gone}
        self.texts = [text for text in self.texts if question_key(text)[:32] not in gone]

    def _assign(self, texts: list[str]) -> Assignment:
        flags = [text in self.synthetic for text in texts]
        book = SplitStore(self.folder).load()
        return assign(texts, self.tests, book, SEED, SHARE, self.threshold, flags, exact_cells=self.exact_cells)

    def _outcome(self, texts: list[str], result: Assignment) -> dict[str, tuple[str, str, str]]:
        return {
            question_key(text): (result.rejected(row), result.side(row), result.cluster_id(row))
            for row, text in enumerate(texts)
            if not result.rejected(row)
        }

    @rule(kill=st.sampled_from([None, None, "shingles", "decisions", "book", "dataset"]))
    def build(self, kill: str | None) -> None:
        result = self._assign(self.texts)
        mixed = self.chance.sample(self.texts, k=len(self.texts))
        assert self._outcome(self.texts, result) == self._outcome(mixed, self._assign(mixed))
        write = split_store.write_bytes_atomic

        def dies(path: Path, data: bytes) -> None:
            if kill is not None and path.name.startswith(kill):
                raise Killed
            write(path, data)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(split_store, "write_bytes_atomic", dies)
            try:
                SplitStore(self.folder).save(result.book)
            except Killed:
                return
        sides = {key: side for key, (_, side, _) in self._outcome(self.texts, result).items()}
        for key, side in sides.items():
            assert self.shown.get(key, side) == side, "a side has flipped"
        self.shown |= sides
        if kill == "dataset":
            return
        fine = {text: row for row, text in enumerate(self.texts) if not result.rejected(row)}
        assert not {text for text, row in fine.items() if result.holdout[row]} & self.synthetic
        train = [text for text, row in fine.items() if not result.holdout[row]]
        held = [text for text, row in fine.items() if result.holdout[row]]
        if self.exact_cells == 0:
            near = touching(shingle(train), shingle(held), self.threshold)
            train = [text for text, gone in zip(train, near.tolist(), strict=True) if not gone]
        self.dataset = (train, held)
        clusters = [{result.clusters[fine[text]] for text in side} for side in (train, held)]
        assert not clusters[0] & clusters[1]
        self._check(train, held)

    def _check(self, train: list[str], held: list[str]) -> None:
        texts = [*train, *held, *self.tests]
        side = np.repeat([0, 1, 2], [len(train), len(held), len(self.tests)])
        pairs = near_pairs(shingle(texts), self.threshold)
        crossing = side[pairs.left] != side[pairs.right]
        found = [(texts[a], texts[b]) for a, b in zip(pairs.left[crossing], pairs.right[crossing], strict=True)]
        assert not found or (self.exact_cells == 0 and all(side[pairs.right[crossing]] == 2)), found

    @invariant()
    def the_book_agrees_with_what_was_shown(self) -> None:
        if not hasattr(self, "folder"):
            return
        book = SplitStore(self.folder).load()
        saved = dict(zip(to_hex(book.keys), book.holdout.tolist(), strict=True))
        for key, side in self.shown.items():
            assert saved[key[:32]] == (side == "holdout")


class SplitOverTimeByHashing(SplitOverTime):
    exact_cells = 0


_SETTINGS = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestExact = SplitOverTime.TestCase
TestExact.settings = _SETTINGS
TestByHashing = SplitOverTimeByHashing.TestCase
TestByHashing.settings = settings(_SETTINGS, max_examples=10)
