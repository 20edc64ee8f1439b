"""The corpus that recall and precision are measured on, and the measuring. Seeded: the same seed, the same sentences.

    .venv/bin/python -m tests.lake.privacy_corpus [--tune | --documents] [--each 500] [--seed 1] [--show name]

prints the table of docs/privacy.md; `--documents` that of documents by another author, which ko-pii makes for its own
evaluation. A span counts as found where every letter and digit of it is masked, whatever the
type says; `as its type` where the placeholder is the right one too. A found span is right where it meets planted data.
"""

from __future__ import annotations

import argparse
import random
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ko_pii.eval.synth import generate_corpus

from lake.privacy.mask import find
from lake.privacy.types import PII_TYPES, Span
from tests.lake.privacy_values import BANKS, SOURCES, digits

SENTENCES = tomllib.loads((Path(__file__).parent / "privacy_sentences.toml").read_text("utf-8"))
STRUCTURED = tuple(kind for kind in PII_TYPES if kind not in ("address", "name"))
Finder = Callable[[str], Sequence[Span]]


@dataclass(frozen=True, slots=True)
class Case:
    """One sentence; `kind` is empty where nothing in it is personal."""

    text: str
    kind: str = ""
    start: int = 0
    end: int = 0
    dress: str = ""


@dataclass(slots=True)
class Score:
    """Counts by type over a corpus, and what was missed or found wrongly (for tuning)."""

    planted: Counter[str] = field(default_factory=Counter[str])
    masked: Counter[str] = field(default_factory=Counter[str])
    typed: Counter[str] = field(default_factory=Counter[str])
    found: Counter[str] = field(default_factory=Counter[str])
    right: Counter[str] = field(default_factory=Counter[str])
    clean: int = 0
    clean_hit: int = 0
    missed: list[Case] = field(default_factory=list[Case])
    wrong: list[tuple[Case, Span]] = field(default_factory=list[tuple[Case, Span]])

    def recall(self, kind: str) -> float:
        return self.masked[kind] / max(1, self.planted[kind])

    def precision(self, kind: str) -> float:
        return self.right[kind] / max(1, self.found[kind])

    def table(self) -> str:
        """Markdown, a row a type."""
        rows = ["| type | spans | recall | as its type | found | precision |", "| --- | --- | --- | --- | --- | --- |"]
        for kind in PII_TYPES:
            typed = self.typed[kind] / max(1, self.planted[kind])
            rows.append(
                f"| {kind} | {self.planted[kind]:,} | {self.recall(kind):.2%} | {typed:.2%} "
                f"| {self.found[kind]:,} | {self.precision(kind):.2%} |"
            )
        return "\n".join([*rows, "", f"Clean sentences: {self.clean:,}, {self.clean_hit} of them with a hit."])


def planted(rng: random.Random, kind: str, sentences: Mapping[str, Sequence[str]]) -> Case:
    """One sentence with one value of a type, in a random dress."""
    source = rng.choice(SOURCES[kind])
    dress = rng.choice(source.dresses)
    value = dress(source.make(rng), rng)
    template = rng.choice(sentences[source.family]).replace("{bank}", rng.choice(BANKS))
    start = template.index("{}")
    return Case(template.replace("{}", value), kind, start, start + len(value), dress.__qualname__)


def clean(rng: random.Random, sentences: Sequence[str]) -> Case:
    """One sentence with nothing personal in it, but with numbers that look like something."""
    parts: dict[str, Callable[[], str]] = {
        "small": lambda: str(rng.randint(2, 40)),
        "price": lambda: f"{rng.randint(1, 900) * 1000:,}" if rng.random() < 0.5 else str(rng.randint(1000, 9_999_999)),
        "date": lambda: (
            f"20{rng.randint(10, 26)}{(m := rng.choice('-./'))}{rng.randint(1, 12):02d}{m}{rng.randint(1, 28):02d}"
        ),
        "time": lambda: f"{rng.randint(1, 12)}:{rng.randint(0, 59):02d}",
        "version": lambda: ".".join(str(rng.randint(0, 30)) for _ in range(rng.randint(2, 4))),
        "model": lambda: rng.choice(["WH-1000XM", "SM-S9", "RTX ", "LG 27GN", "i7-12", "EOS R"]) + digits(rng, 3),
        "order": lambda: rng.choice(["20251125-", "A", "", "PO-"]) + digits(rng, rng.randint(5, 12), "123456789"),
        "epoch": lambda: str(rng.randint(1_600_000_000, 1_800_000_000)) + rng.choice(["", "123"]),
        "uuid": lambda: "-".join("".join(rng.choice("0123456789abcdef") for _ in range(n)) for n in (8, 4, 4, 4, 12)),
        "hash": lambda: "".join(rng.choice("0123456789abcdef") for _ in range(rng.choice([7, 12, 40]))),
        "isbn": lambda: "978-89-" + digits(rng, 4) + "-" + digits(rng, 3) + "-" + digits(rng, 1),
        "barcode": lambda: "880" + digits(rng, 10),
        "width": lambda: str(rng.choice([1280, 1600, 1920, 2560, 3840])),
        "height": lambda: str(rng.choice([720, 1080, 1200, 1440, 2160])),
        "coordinate": lambda: (
            f"{rng.uniform(33, 38):.{rng.randint(2, 6)}f}, {rng.uniform(126, 129):.{rng.randint(2, 6)}f}"
        ),
        "port": lambda: str(rng.randint(1024, 65535)),
    }
    text = rng.choice(sentences)
    for name, make in parts.items():
        while f"{{{name}}}" in text:
            text = text.replace(f"{{{name}}}", make(), 1)
    return Case(text)


def corpus(each: int, seed: int, tune: bool = False) -> Iterator[Case]:
    """`each` sentences of every type, and as many clean ones as planted ones together."""
    side = "tune" if tune else "report"
    rng = random.Random(f"{seed} {side}")
    for _ in range(each):
        for kind in PII_TYPES:
            yield planted(rng, kind, SENTENCES[side]["planted"])
            yield clean(rng, SENTENCES[side]["clean"])


def score(cases: Iterator[Case] | Sequence[Case], finder: Finder = find) -> Score:
    """Measure a finder on a corpus."""
    result = Score()
    for case in cases:
        spans = finder(case.text)
        covered = {at for span in spans for at in range(span.start, span.end)}
        for span in spans:
            result.found[span.kind] += 1
            if case.kind and span.start < case.end and case.start < span.end:
                result.right[span.kind] += 1
            else:
                result.wrong.append((case, span))
        if not case.kind:
            result.clean += 1
            result.clean_hit += bool(spans)
            continue
        result.planted[case.kind] += 1
        telling = {at for at in range(case.start, case.end) if case.text[at].isalnum()}
        if telling <= covered:
            result.masked[case.kind] += 1
            result.typed[case.kind] += any(
                span.kind == case.kind and span.start <= min(telling) < span.end for span in spans
            )
        else:
            result.missed.append(case)
    return result


_LABELS = {
    "RRN": "resident", "FRN": "foreigner", "BUSINESS_REG": "business", "DRIVER_LICENSE": "licence", "CARD": "card",
    "PASSPORT": "passport", "PHONE": "phone", "FAX": "phone", "EMAIL": "email", "ACCOUNT": "account",
    "PERSON": "name", "ADDRESS": "address", "IP": "ip",
}  # fmt: skip


def documents(count: int, seed: int) -> Iterator[Case]:
    """ko-pii's made-up public documents, a case a span; made by rules and lists that are not ours."""
    for document in generate_corpus(count, seed=seed):
        for span in document.spans:
            if kind := _LABELS.get(span.label):
                yield Case(document.text, kind, span.start, span.end)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Recall and precision of lake.privacy, by type.")
    parser.add_argument("--each", type=int, default=500, help="sentences of every type, or documents")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tune", action="store_true", help="the sentences the rules were tuned on")
    parser.add_argument("--documents", action="store_true", help="recall alone, on documents by another author")
    parser.add_argument("--show", default="", help="list what was missed or found wrongly of a type, or of all")
    options = parser.parse_args(argv)
    if options.documents:
        result = score(documents(options.each, options.seed))
        print(
            "\n".join(f"| {kind} | {result.planted[kind]:,} | {result.recall(kind):.2%} |" for kind in result.planted)
        )
        return 0
    result = score(corpus(options.each, options.seed, options.tune))
    print(result.table())
    for case in result.missed:
        if options.show in (case.kind, "all"):
            print(f"missed {case.kind} {case.dress} {case.text[case.start : case.end]!r}: {case.text}")
    for case, span in result.wrong:
        if options.show in (span.kind, "all"):
            print(f"wrong {span.kind} {case.text[span.start : span.end]!r}: {case.text}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
