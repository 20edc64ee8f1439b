"""Which answer a question is trained on, if any. Pure: rows of the lake's tables in, candidates out.

Priority: a golden review of that very request, a golden review of the same normalised question, a correction
from feedback, a synthetic answer, the served answer with positive feedback. No feedback is no label, unless
the policy says `served`. Among equals the newest wins; one candidate a question is kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from lake.rules.shingles import question_key
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import LabelSource, Reject
from lake.text import detect_lang, nfc

Row = Mapping[str, Any]
Policy = Literal["drop", "served"]
POSITIVE_SCORE = 4  # of 5; thumb "up" counts as well
NEGATIVE_SCORE = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question with what was retrieved for it and, where there is one, its label."""

    source_id: str  # request or synthetic id
    key: str  # of the normalised question
    question: str
    lang: str
    retrieved_items: list[RetrievedItem]
    answer: str | None
    label_source: LabelSource | None
    priority: int  # lower is better
    order: str  # time and id, to find the newest
    label_ids: list[str] = field(default_factory=list[str])  # review or feedback that gave the label
    tools: list[str] = field(default_factory=list[str])
    no_label_reason: str = "no_label"
    outcome: str = "answered"
    finish_reason: str | None = None
    prompt_sha256: str | None = None

    @property
    def trusted(self) -> bool:
        """A person wrote the answer with the question before their eyes."""
        return self.label_source == "golden"


def to_item(value: Row) -> RetrievedItem:
    """A retrieved item out of a table row; missing scores are left out."""
    scores = cast(Row, value.get("scores") or {})
    return RetrievedItem(
        rank=int(value["rank"]),
        score=float(value["score"] or 0.0),
        id=value["id"],
        name=value["name"] or "",
        url=value["url"] or "",
        description=value["description"] or "",
        chunk_text=value["chunk_text"] or "",
        tags=list(value["tags"] or []),
        category=value["category"] or "",
        scores={name: float(score) for name, score in scores.items() if score is not None},
    )


def _order(row: Row, id_column: str) -> str:
    return f"{row['timestamp'].isoformat()}|{row[id_column]}"


def _newest(rows: Iterable[Row], id_column: str) -> list[Row]:
    return sorted(rows, key=lambda row: _order(row, id_column), reverse=True)


@dataclass(frozen=True)
class Labels:
    """Reviews and feedback, ready to be looked up."""

    review_of_request: dict[str, Row]
    review_of_question: dict[str, Row]
    feedback_of_request: dict[str, list[Row]]

    @classmethod
    def of(cls, reviews: Iterable[Row], feedback: Iterable[Row]) -> Labels:
        by_request: dict[str, Row] = {}
        by_question: dict[str, Row] = {}
        for review in _newest(reviews, "review_id"):
            if review["request_id"]:
                by_request.setdefault(review["request_id"], review)
            by_question.setdefault(question_key(review["question"]), review)
        of_request: dict[str, list[Row]] = defaultdict(list)
        for one in _newest(feedback, "feedback_id"):
            of_request[one["request_id"]].append(one)
        return cls(by_request, by_question, dict(of_request))


def _choose(request: Row, key: str, labels: Labels, policy: Policy) -> dict[str, Any]:
    """The label fields of a request's candidate."""
    own = labels.review_of_request.get(request["request_id"])
    review = own or labels.review_of_question.get(key)
    if review is not None:
        return {
            "answer": nfc(review["answer"]).strip(),
            "label_source": "golden",
            "priority": 0 if own is not None else 1,
            "label_ids": [review["review_id"]],
            "tools": list(review["tools"] or []),
        }
    said = labels.feedback_of_request.get(request["request_id"], [])
    corrected = next((one for one in said if (one["corrected_answer"] or "").strip()), None)
    if corrected is not None:
        return {
            "answer": nfc(corrected["corrected_answer"]).strip(),
            "label_source": "correction",
            "priority": 2,
            "label_ids": [corrected["feedback_id"]],
        }
    judged = next((one for one in said if one["thumb"] or one["score"] is not None), None)
    answer = nfc(request["llm_response_content"] or "").strip()
    if judged is not None:
        score = judged["score"]
        if judged["thumb"] == "down" or (score is not None and score <= NEGATIVE_SCORE):
            return {
                "answer": None,
                "label_source": None,
                "priority": 9,
                "no_label_reason": "negative_feedback",
            }
        if judged["thumb"] == "up" or (score is not None and score >= POSITIVE_SCORE):
            return {
                "answer": answer,
                "label_source": "positive_feedback",
                "priority": 4,
                "label_ids": [judged["feedback_id"]],
            }
    if policy == "served":
        return {"answer": answer, "label_source": "served", "priority": 5}
    return {"answer": None, "label_source": None, "priority": 8}


def request_candidates(
    requests: Iterable[Row], reviews: Sequence[Row], feedback: Iterable[Row], policy: Policy
) -> tuple[list[Candidate], list[Reject]]:
    """A candidate for each logged request. Rejects: `opted_out` requests (`store: false`, they have no text), and
    reviews that no request matches (`no_request`).
    """
    labels = Labels.of(reviews, feedback)
    candidates: list[Candidate] = []
    opted_out: list[Reject] = []
    requested: set[str] = set()
    for request in requests:
        if request.get("stored") is False:
            opted_out.append(Reject(request["request_id"], "opted_out", ""))
            continue
        question = nfc(request["user_query"])
        key = question_key(question)
        requested |= {request["request_id"], key}
        chosen = _choose(request, key, labels, policy)
        candidates.append(
            Candidate(
                source_id=request["request_id"],
                key=key,
                question=question,
                lang=detect_lang(question),
                retrieved_items=[to_item(item) for item in request["retrieved_items"] or []],
                order=_order(request, "request_id"),
                outcome=request["outcome"],
                finish_reason=request["finish_reason"],
                prompt_sha256=request["prompt_sha256"],
                **chosen,
            )
        )
    unused = [
        Reject(review["review_id"], "no_request", review["question"])
        for review in reviews
        if review["request_id"] not in requested and question_key(review["question"]) not in requested
    ]
    return candidates, [*opted_out, *unused]


def synthetic_candidates(rows: Iterable[Row]) -> list[Candidate]:
    """A candidate for each synthetic row."""
    return [
        Candidate(
            source_id=row["synthetic_id"],
            key=question_key(row["question"]),
            question=nfc(row["question"]),
            lang=detect_lang(row["question"]),
            retrieved_items=[to_item(item) for item in row["retrieved_items"] or []],
            answer=nfc(row["answer"]).strip(),
            label_source="synthetic",
            priority=3,
            order=_order(row, "synthetic_id"),
            tools=[row["tool_id"]],
        )
        for row in rows
    ]


def one_per_question(candidates: Iterable[Candidate]) -> tuple[list[Candidate], list[Reject]]:
    """The best label of each question, the newest among equals; the others are `duplicate_question`."""
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.key].append(candidate)
    kept: list[Candidate] = []
    rejects: list[Reject] = []
    for key in sorted(groups):
        ordered = sorted(groups[key], key=lambda one: (one.order, one.source_id), reverse=True)
        best = min(ordered, key=lambda one: one.priority)  # min is stable: the newest of the best priority
        kept.append(best)
        rejects += [Reject(one.source_id, "duplicate_question", one.question) for one in ordered if one is not best]
    return kept, rejects
