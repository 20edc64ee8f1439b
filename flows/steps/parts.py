"""The parts that several steps open in the same way: retriever, prompt builder, base model, test cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson

from flows.steps.stage import StageContext
from lake.catalog import CatalogLoad, load_catalog
from lake.errors import DatasetError
from lake.prompt import PromptBuilder
from lake.rules.stale import Catalog, stale_reason
from lake.schemas.rows import EvalCase, Tool
from lake.text import nfc
from serving.base_models import BaseModel, load_base
from serving.encoders import load_encoder
from serving.index import load_index
from serving.prompting import PromptSettings, make_prompt_builder
from serving.rerank import load_reranker
from serving.retrieval_settings import RetrievalSettings
from serving.retriever import Retriever


def open_retriever(stage: StageContext) -> Retriever:
    """The retriever over the index in service, with the gateway's own settings."""
    settings = RetrievalSettings()
    encoder = load_encoder(stage.serving.embedder, allow_hub=settings.allow_hub)
    reranker = load_reranker(
        settings.reranker,
        settings.reranker_file,
        cross_encoder_candidates=settings.cross_encoder_candidates,
        allow_hub=settings.allow_hub,
    )
    return Retriever(load_index(stage.lake.index_dir), encoder, reranker, settings.candidates)


def open_builder(stage: StageContext) -> PromptBuilder:
    """The one prompt builder, with the gateway's own settings."""
    return make_prompt_builder(PromptSettings(), stage.lake.models_dir, stage.serving.base_name)


def open_base(stage: StageContext) -> BaseModel:
    """The base model of the settings. Raises `ModelMissingError` where it is not prepared."""
    return load_base(stage.lake.models_dir, stage.serving.base_name)


def open_catalog(stage: StageContext) -> CatalogLoad:
    """The catalogue of the settings, bad rows left out (the index flow reports them)."""
    return load_catalog(stage.flows.catalog)


def read_cases(path: Path) -> list[EvalCase]:
    """The test set. Raises `DatasetError` naming the line that is wrong."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DatasetError(f"The test set {path} can't be read ({error.strerror}): set MULLE_TEST_SET.") from error
    cases: list[EvalCase] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            cases.append(_case(path, number, line))
    if not cases:
        raise DatasetError(f"The test set {path} is empty.")
    return cases


def fresh_cases(cases: Sequence[EvalCase], tools: Iterable[Tool]) -> tuple[list[EvalCase], dict[str, int]]:
    """The cases whose golden answers fit the catalogue, and how many do not, by reason (`stale_catalogue`): a model
    that knows today's catalogue must not be measured against yesterday's. Raises `DatasetError` where none is left.
    """
    catalog = Catalog.of(tools)
    reasons = [stale_reason(case.tools, case.golden, catalog) for case in cases]
    fresh = [case for case, reason in zip(cases, reasons, strict=True) if reason is None]
    if not fresh:
        raise DatasetError(
            "No test question fits the catalogue any more: review them (`python -m flows.reviews export`) and correct "
            "the test set, or set MULLE_CATALOG and MULLE_TEST_SET to files that belong together."
        )
    return fresh, dict(sorted(Counter(reason for reason in reasons if reason).items()))


def _case(path: Path, number: int, line: bytes) -> EvalCase:
    try:
        row = orjson.loads(line)
        return EvalCase(
            id=str(row["id"]),
            question=nfc(row["question"]),
            lang=row["lang"],
            golden=nfc(row["answer"]),
            tools=_ids(row["tools"]),
            also=_ids(row.get("also", [])),
            kind=str(row.get("kind", "")),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}, line {number}: needs id, question, lang, answer and tools ({type(error).__name__}: {error})."
        ) from error


def _ids(value: Sequence[str]) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TypeError("tools and also must be lists of ids")
    return value
