"""From the lake to a dataset version: label, clean, ground, cluster, split, render, write.

Reads the tables requests, reviews, feedback and synthetic (each at one version) and the test questions;
writes `data/datasets/<version>/` and `data/datasets/splits/`. Retrieval is not run again: the retrieved
items are those that the log holds, so a row's prompt is the one that was served. Same table versions, config,
splits and tokenizer give the same version and bytes. Every dropped row is in rejects.jsonl with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson

from flows.steps.build_rows import BuildConfig, cap_clusters, drop_touching, judge, limit_synthetic
from lake.dataset import Dataset, verify, write_dataset
from lake.errors import DatasetError
from lake.files import canonical_json, sha256_bytes
from lake.location import LakeDir
from lake.progress import Progress
from lake.prompt import PromptBuilder
from lake.rules.label import (
    one_per_question,
    request_candidates,
    synthetic_candidates,
)
from lake.rules.render import RenderedRow
from lake.rules.split import assign
from lake.schemas.rows import Reject
from lake.split_store import SplitStore, one_at_a_time
from lake.tables import scan, table_version
from lake.text import nfc

__all__ = ["BuildConfig", "read_test_questions", "run_build"]

SOURCES = ("requests", "reviews", "feedback", "synthetic")


def read_test_questions(path: Path | None) -> list[str]:
    """The questions of a test file (JSON Lines with "question"), NFC. Raises `DatasetError` with the line."""
    if path is None:
        return []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DatasetError(
            f"The test questions at {path} can't be read ({error.strerror}): the build must "
            "keep them out of training. Set the test file to the right path.",
            path=str(path),
        ) from error
    questions: list[str] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            question = orjson.loads(line)["question"]
            if not isinstance(question, str) or not question.strip():
                raise ValueError("question is empty or not text")
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f'{path}, line {number}: not a JSON object with a "question" ({error}): correct that line.',
                path=str(path),
                line=number,
            ) from error
        questions.append(nfc(question))
    return questions


def _read(lake_dir: LakeDir) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
    versions = {name: table_version(lake_dir, name) for name in SOURCES}
    tables = {name: scan(lake_dir, name, versions[name]).collect().to_dicts() for name in SOURCES}
    return tables, versions


def _names(tables: Mapping[str, Sequence[Mapping[str, Any]]], catalog_names: Sequence[str]) -> list[str]:
    found = {nfc(name) for name in catalog_names}
    for table in ("requests", "synthetic"):
        for row in tables[table]:
            found |= {nfc(item["name"]) for item in row["retrieved_items"] or [] if item["name"]}
    return sorted(found)


def run_build(
    lake_dir: LakeDir,
    datasets_dir: Path,
    test_file: Path | None,
    builder: PromptBuilder,
    config: BuildConfig | None = None,
    *,
    template_sha256: str = "",
    tokenizer_sha256: str = "",
    catalog_names: Sequence[str] = (),
    progress_path: Path | None = None,
) -> dict[str, Any]:
    """Build and verify a dataset version; the report names it. Safe to retry and to run twice at once.

    `builder` must be made with the counter and budgets that the gateway serves with; `catalog_names` (all
    tool names, if at hand) sharpen the check that an answer names no tool that was not shown. Raises
    `DatasetError` where nothing is left to train on, or settings, splits or test file can't be used.
    """
    config = (config or BuildConfig()).check()
    test_questions = read_test_questions(test_file)
    with one_at_a_time(datasets_dir):
        tables, versions = _read(lake_dir)
        dataset, rejects, served = _build(
            tables, versions, datasets_dir, test_questions, builder, config,
            {"template_sha256": template_sha256, "tokenizer_sha256": tokenizer_sha256},
            catalog_names, progress_path,
        )  # fmt: skip
    proof = verify(dataset.path)
    manifest = dataset.manifest
    return {
        "dataset": dataset.version,
        "path": str(dataset.path),
        "reused": dataset.reused,
        **{name: manifest[name] for name in ("counts", "drops", "label_sources", "languages", "tokens", "config")},
        "tables": versions,
        "rows_read": {name: len(rows) for name, rows in tables.items()},
        "rejected": len(rejects),
        "prompts_as_served": served,
        "max_jaccard": proof["max_jaccard"],
        "disjoint": proof["disjoint"],
    }


def _build(
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    versions: Mapping[str, int],
    datasets_dir: Path,
    test_questions: Sequence[str],
    builder: PromptBuilder,
    config: BuildConfig,
    model_facts: Mapping[str, str],
    catalog_names: Sequence[str],
    progress_path: Path | None,
) -> tuple[Dataset, list[Reject], dict[str, int]]:
    """The dataset, what was dropped, and how many prompts are byte for byte the ones that were served."""
    logged, rejects = request_candidates(tables["requests"], tables["reviews"], tables["feedback"], config.unlabelled)
    candidates, duplicates = one_per_question([*logged, *synthetic_candidates(tables["synthetic"])])
    rejects += duplicates
    known_names = _names(tables, catalog_names)
    progress = Progress(progress_path, "build", len(candidates))
    rows: list[RenderedRow] = []
    served: Counter[str] = Counter()
    for candidate in candidates:
        judged = judge(candidate, builder, config, known_names)
        progress.advance()
        if isinstance(judged, Reject):
            rejects.append(judged)
            continue
        rows.append(judged)
        if candidate.prompt_sha256:
            served["same" if candidate.prompt_sha256 == judged.prompt.sha256 else "other"] += 1

    store = SplitStore(datasets_dir)
    assignment = assign(
        [one.row.question for one in rows],
        test_questions,
        store.load(),
        config.seed,
        config.holdout_share,
        config.near_duplicate_threshold,
        [one.row.label_source == "synthetic" for one in rows],
    )
    placed: list[RenderedRow] = []
    for number, one in enumerate(rows):
        if reason := assignment.rejected(number):
            rejects.append(Reject(one.row.source_ids[0], reason, one.row.question))
            continue
        row = replace(one.row, cluster_id=assignment.cluster_id(number), split=assignment.side(number))
        placed.append(replace(one, row=row))
    placed, capped = cap_clusters(placed, config)
    placed, surplus = limit_synthetic(placed, config)
    placed, bridges = drop_touching(placed, config)
    rejects += capped + surplus + bridges
    if any(one.row.split == "train" for one in placed):
        store.save(assignment.book)  # before the dataset: a split once shown must stay decided
    inputs = {
        "tables": dict(versions),
        "test_sha256": sha256_bytes(canonical_json(sorted(test_questions))),
        "test_questions": len(test_questions),
        "known_names_sha256": sha256_bytes(canonical_json(known_names)),
        **builder.facts,
        **model_facts,
    }
    dataset = write_dataset(datasets_dir, placed, rejects, test_questions, inputs, asdict(config))
    progress.finish(dataset.version)
    return dataset, rejects, {"same": served["same"], "other": served["other"]}
