"""Catalogue tools, dataset rows and evaluation cases: plain frozen dataclasses that travel between steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from lake.schemas.records import RetrievedItem


@dataclass(frozen=True, slots=True)
class Tool:
    """One catalogue entry; texts are NFC. `description` serves where a language has none of its own."""

    id: str
    name: str
    description: str
    url: str = ""
    category: str = ""
    tags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    description_ko: str = ""
    description_en: str = ""

    def text(self, lang: str) -> str:
        """The description in `lang`, else the general one."""
        own = self.description_ko if lang == "ko" else self.description_en
        return own or self.description


SPLITS = ("train", "holdout")
LabelSource = Literal["golden", "correction", "teacher", "positive_feedback", "synthetic", "served"]


@dataclass(frozen=True, slots=True)
class DatasetRow:
    """One training row before rendering: everything its prompt and completion follow from, plus lineage."""

    row_id: str
    question: str
    lang: str
    retrieved_items: list[RetrievedItem]
    answer: str
    label_source: LabelSource
    source_ids: list[str]  # request, review and synthetic ids that it came from
    tools: list[str] = field(default_factory=list[str])  # ids named by the answer
    cluster_id: str = ""
    split: Literal["train", "holdout", ""] = ""
    category: str = ""  # of the first tool
    generation: int = 0  # how many of our own trainings lie between the answer and people's words (rules/depth.py)
    repairs: list[str] = field(default_factory=list[str])  # what the build put right in the answer: url
    rejected: str | None = None  # the answer that was served to the same prompt, where it is the worse one of a pair


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that was dropped, and why; counted in every report."""

    source_id: str
    reason: str
    sample: str = ""


@dataclass(frozen=True, slots=True)
class RetrievalFailure:
    """The right tool was not among the retrieved ones: a row of the table retrieval_failures."""

    request_id: str
    question: str
    lang: str
    right_tools: list[str]
    hard_negatives: list[dict[str, Any]]  # id, rank, score of what was retrieved instead
    label_source: LabelSource
    index_version: str | None = None
    embedder: str | None = None


@dataclass(frozen=True, slots=True)
class EvalCase:
    """One held-out question with its golden answer; `tools` empty means that no tool suits."""

    id: str
    question: str
    lang: str
    golden: str
    tools: list[str]
    also: list[str]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class EvalAnswer:
    """What one arm answered to one case on one backend."""

    case_id: str
    arm: str
    backend: str
    answer: str
    retrieved_items: list[RetrievedItem]
    latency_ms: float
    completion_tokens: int | None
    finish_reason: str | None
    scores: dict[str, Any] = field(default_factory=dict[str, Any])
