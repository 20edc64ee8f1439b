"""From the lake to a dataset version: label, clean, ground, cluster, split, limit, render, write, record.

Reads the tables requests, reviews, feedback, teacher_labels and synthetic (each at one version), the catalogue and
the test questions; writes `data/datasets/<version>/`, the split's book (`data/datasets/splits/`), and the tables
datasets, rejects and retrieval_failures. Retrieval is not run again: the retrieved items are those that the log
holds, so a row's prompt is the one that was served. Same rows, catalogue, config, splits and tokenizer give the same
version and bytes. Every dropped row is in rejects.jsonl with its reason. Rows wait on disk between the stages, so
memory holds the short columns of the log and one bucket of rows. A killed build leaves a hidden folder, which the
next one removes.
"""

from __future__ import annotations

import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flows.steps.build_config import BuildConfig
from flows.steps.build_read import (
    logged_names,
    long_rows,
    names_sha256,
    read_test_questions,
    short_rows,
    source_versions,
)
from flows.steps.build_rows import Kept, Known, candidate_of, judge
from lake.catalog import catalog_version
from lake.dataset import TEMPORARY, Dataset, verify, write_dataset
from lake.dataset_files import content_row
from lake.dataset_record import record_datasets
from lake.dataset_spool import Spool
from lake.files import canonical_json, sha256_bytes
from lake.location import LakeDir
from lake.progress import Progress, timed
from lake.prompt import PromptBuilder
from lake.rules.caps import ROW, apply_limits
from lake.rules.certificate import touching
from lake.rules.depth import Lineage
from lake.rules.label import REJECTS, choose, reject_rows
from lake.rules.shingles import shingle
from lake.rules.split import assign, draw
from lake.rules.stale import Catalog, stale_rows
from lake.schemas.rows import SPLITS, Reject, RetrievalFailure, Tool
from lake.split_store import SplitStore, one_at_a_time

__all__ = ["BuildConfig", "BuildInputs", "read_test_questions", "run_build"]

SPOOL = ".rows."
Step = Callable[[str, int | None], Progress]


@dataclass(frozen=True)
class BuildInputs:
    """What a build reads beside the lake. `builder` must count and budget as the gateway does; `tools` (the whole
    catalogue, if at hand) finds stale labels, tools that were not retrieved, and names that were not shown.
    """

    builder: PromptBuilder
    test_file: Path | None = None
    tools: Sequence[Tool] = ()
    lineage: Lineage = field(default_factory=Lineage)
    template_sha256: str = ""
    tokenizer_sha256: str = ""


def _sweep(datasets_dir: Path) -> None:
    """Remove what a killed build left; only for whoever holds the lock."""
    for left in (*datasets_dir.glob(f"{SPOOL}*"), *datasets_dir.glob(f"{TEMPORARY}*")):
        shutil.rmtree(left, ignore_errors=True)


def run_build(
    lake_dir: LakeDir,
    datasets_dir: Path,
    given: BuildInputs,
    config: BuildConfig | None = None,
    *,
    run_id: str | None = None,
    progress_path: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Build, verify and record a dataset version; the report names it. Safe to retry and to run twice at once.

    `say` gets a line with stage, rate and time left every few seconds. Raises `DatasetError` where nothing is left to
    train on, or settings, splits or test file can't be used.
    """
    config = (config or BuildConfig()).check()
    tests = read_test_questions(given.test_file)

    def step(name: str, total: int | None) -> Progress:
        return Progress(progress_path, f"build: {name}", total, say=say)

    with one_at_a_time(datasets_dir):
        _sweep(datasets_dir)
        build = _Build(lake_dir, datasets_dir, given, config, tests, step)
        dataset = build.run()
        with timed(build.seconds, "verify"):
            proof = verify(dataset.path)
        with timed(build.seconds, "record"):
            record_datasets(lake_dir, datasets_dir, run_id)
    manifest = dataset.manifest
    kept = ("counts", "drops", "label_sources", "generations", "languages", "categories", "tokens", "config")
    return {
        "dataset": dataset.version,
        "path": str(dataset.path),
        "reused": dataset.reused,
        **{name: manifest[name] for name in (*kept, "no_suitable_tool_share")},
        "tables": build.versions,
        "rows_read": build.rows_read,
        "rejected": manifest["counts"]["rejected"],
        "prompts_as_served": {name: build.served[name] for name in ("same", "other")},
        "pairs": dict(sorted(build.pairs.items())),
        **build.facts,
        "seconds": {name: round(value, 3) for name, value in build.seconds.items()},
        "max_jaccard": proof["max_jaccard"],
        "disjoint": proof["disjoint"],
    }


class _Build:
    """One build: its stages in the order of `run`, and what they counted."""

    def __init__(
        self,
        lake_dir: LakeDir,
        datasets_dir: Path,
        given: BuildInputs,
        config: BuildConfig,
        tests: list[str],
        step: Step,
    ) -> None:
        self.lake_dir, self.datasets_dir = lake_dir, datasets_dir
        self.given, self.config, self.tests = given, config, tests
        self.step = step
        self.versions = source_versions(lake_dir)
        self.rows_read: dict[str, int] = {}
        self.served: Counter[str] = Counter()
        self.pairs: Counter[str] = Counter()
        self.facts: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.rejects: list[pl.DataFrame] = []
        self.failures: list[RetrievalFailure] = []

    def run(self) -> Dataset:
        chosen = self._label()
        names = logged_names(self.lake_dir, self.versions) | {tool.name for tool in self.given.tools}
        spool_folder = self.datasets_dir / f"{SPOOL}{secrets.token_hex(4)}"
        spool_folder.mkdir()
        try:
            spool = Spool(spool_folder, len(chosen))
            rows = self._judge(chosen, names, spool)
            placed = self._split(rows)
            placed = self._limit(placed)
            return self._write(placed, names, spool)
        finally:
            shutil.rmtree(spool_folder, ignore_errors=True)

    def _label(self) -> pl.DataFrame:
        with timed(self.seconds, "label"):
            tables = short_rows(self.lake_dir, self.versions)
            self.rows_read = {name: len(frame) for name, frame in tables.items()}
            progress = self.step("label", sum(self.rows_read.values()))
            stale = None
            if self.given.tools and self.config.stale_labels == "drop":
                catalog = Catalog.of(self.given.tools)
                stale = lambda frame, column: stale_rows(frame, catalog, tools=column)  # noqa: E731
            labelled = choose(tables, self.config.unlabelled, stale)
            self.rejects.append(labelled.rejects)
            self.facts = labelled.facts
            progress.advance(sum(self.rows_read.values()))
            progress.finish()
            return labelled.chosen

    def _judge(self, chosen: pl.DataFrame, names: set[str], spool: Spool) -> pl.DataFrame:
        """The short columns of the rows that are kept; the rows themselves go to the spool."""
        known = Known.of(self.given.tools, names)
        progress = self.step("judge", len(chosen))
        rows: list[tuple[Any, ...]] = []
        dropped: list[Reject] = []
        with timed(self.seconds, "judge"):
            for label, long in long_rows(self.lake_dir, self.versions, chosen):
                candidate = candidate_of(label, long, self.given.lineage)
                judged = judge(candidate, self.given.builder, self.config, known)
                progress.advance()
                if isinstance(judged, RetrievalFailure):
                    self.failures.append(judged)
                    judged = Reject(candidate.source_id, "not_retrieved", candidate.question)
                if isinstance(judged, Reject):
                    dropped.append(judged)
                    continue
                self.pairs[judged.pair] += 1
                if judged.as_served is not None:
                    self.served["same" if judged.as_served else "other"] += 1
                spool.add(content_row(judged.rendered))
                rows.append(_limit_row(judged, self.config.seed))
        progress.finish()
        self.rejects.append(
            pl.DataFrame([(one.source_id, one.reason, one.sample) for one in dropped], REJECTS, orient="row")
        )
        return pl.DataFrame(rows, schema=ROW, orient="row")

    def _split(self, rows: pl.DataFrame) -> pl.DataFrame:
        """`rows` with cluster and split; the decisions are saved before any dataset shows them."""
        progress = self.step("split", len(rows))
        with timed(self.seconds, "split"):
            store = SplitStore(self.datasets_dir)
            assignment = assign(
                rows["question"].to_list(),
                self.tests,
                store.load(),
                self.config.seed,
                self.config.holdout_share,
                self.config.near_duplicate_threshold,
                (rows["label_source"] == "synthetic").to_list(),
            )
            numbers = range(len(rows))
            placed = rows.with_columns(
                reason=pl.Series([assignment.rejected(row) for row in numbers], dtype=pl.String),
                cluster_id=pl.Series([assignment.cluster_id(row) for row in numbers], dtype=pl.String),
                split=pl.Series([assignment.side(row) for row in numbers], dtype=pl.String),
            )
            fine = pl.col("reason") == ""
            if placed.select((fine & (pl.col("split") == "train")).any()).item():
                store.save(assignment.book)
        progress.advance(len(rows))
        progress.finish()
        self._reject(placed.filter(~fine))
        return placed.filter(fine).drop("reason")

    def _limit(self, placed: pl.DataFrame) -> pl.DataFrame:
        """What stays under the caps, without rows that the certificate would find near another side: a large split is
        sure to some 98 % only.
        """
        with timed(self.seconds, "limit"):
            placed, dropped = apply_limits(placed, self.config.limits)
            self.rejects.append(dropped)
            sets, threshold = shingle(placed["question"].to_list()), self.config.near_duplicate_threshold
            near = touching(sets, shingle(self.tests), threshold)
            self._reject(placed.filter(near).with_columns(reason=pl.lit("near_test")))
            train, holdout = (np.flatnonzero(~near & (placed["split"] == side).to_numpy()) for side in SPLITS)
            bridges = touching(sets.take(train), sets.take(holdout), threshold)
            self._reject(placed[train[bridges]].with_columns(reason=pl.lit("bridges_split")))
            return placed[np.concatenate([train[~bridges], holdout])]

    def _reject(self, rows: pl.DataFrame) -> None:
        self.rejects.append(reject_rows(rows, "source_id", pl.col("reason"), "question"))

    def _write(self, placed: pl.DataFrame, names: set[str], spool: Spool) -> Dataset:
        tests, given = self.tests, self.given
        inputs: dict[str, Any] = {
            "tables": dict(self.versions),
            "test_sha256": sha256_bytes(canonical_json(sorted(tests))),
            "test_questions": len(tests),
            "known_names_sha256": names_sha256(names),
            "catalog_version": catalog_version(given.tools) if given.tools else "",
            **given.builder.facts,
            "template_sha256": given.template_sha256,
            "tokenizer_sha256": given.tokenizer_sha256,
        }
        progress = self.step("write", len(placed))

        def counted(table: Any) -> Any:
            progress.advance(len(table))
            return table

        with timed(self.seconds, "write"):
            parts = map(counted, spool.tables(placed))
            rejects = pl.concat(self.rejects)
            dataset = write_dataset(
                self.datasets_dir, parts, rejects, tests, inputs, asdict(self.config), self.failures
            )
        progress.finish(dataset.version)
        return dataset


def _limit_row(kept: Kept, seed: int) -> tuple[Any, ...]:
    """A row of `caps.ROW`, without its cluster."""
    row = kept.rendered.row
    return (
        row.row_id, row.source_ids[0], row.question, None, row.label_source, kept.candidate.keys, kept.answer_key,
        row.generation, draw(seed, row.row_id), row.lang, row.category, not row.tools,
    )  # fmt: skip
