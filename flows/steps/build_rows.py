"""One candidate at a time: what a build keeps, and the limits over all of them. Pure.

Reads and writes nothing; `flows/steps/build.py` feeds it. Every row that goes comes back as a `Reject`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lake import house_style
from lake.errors import DatasetError, QuestionError
from lake.files import canonical_json, sha256_bytes
from lake.prompt import PromptBuilder
from lake.rules import clean
from lake.rules.certificate import touching
from lake.rules.ground import grounded, right_tool
from lake.rules.label import Candidate, Policy
from lake.rules.render import RenderedRow, render
from lake.rules.shingles import shingle
from lake.rules.split import draw
from lake.schemas.rows import DatasetRow, Reject


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """What decides a dataset beside its inputs; saved in its manifest."""

    seed: int = 20_260_101
    holdout_share: float = 0.1  # of the clusters
    near_duplicate_threshold: float = 0.4
    max_prompt_tokens: int = 512  # with chat turns
    max_tokens: int = 640  # prompt and completion
    unlabelled: Policy = "drop"  # drop | served: train on served answers that nobody judged
    synthetic_share: float = 0.5  # at most this share of the rows is synthetic
    cluster_cap: int = 20  # at most so many rows of one near-duplicate cluster

    def check(self) -> BuildConfig:
        """Itself, or `DatasetError` naming the setting that is out of range."""
        wrong = [
            name
            for name, fine in {
                "holdout_share (0 to 0.5)": 0.0 <= self.holdout_share <= 0.5,
                "near_duplicate_threshold (above 0, at most 1)": 0.0 < self.near_duplicate_threshold <= 1.0,
                "max_prompt_tokens (64 to max_tokens)": 64 <= self.max_prompt_tokens <= self.max_tokens,
                "unlabelled (drop or served)": self.unlabelled in ("drop", "served"),
                "synthetic_share (0 to 1)": 0.0 <= self.synthetic_share <= 1.0,
                "cluster_cap (1 or more)": self.cluster_cap >= 1,
            }.items()
            if not fine
        ]
        if wrong:
            raise DatasetError(f"The build can't start, out of range: {', '.join(wrong)}.", settings=wrong)
        return self


def judge(
    candidate: Candidate, builder: PromptBuilder, config: BuildConfig, known_names: Sequence[str]
) -> RenderedRow | Reject:
    """The rendered row of a candidate (without split), or why it is dropped."""

    def reject(reason: str) -> Reject:
        return Reject(candidate.source_id, reason, candidate.question)

    answer, source = candidate.answer, candidate.label_source
    if source is None or answer is None:
        return reject(candidate.no_label_reason)
    trusted = candidate.trusted
    fine, reason = clean.check_question(candidate.question, trusted)
    if not fine:
        return reject(reason)
    if source in ("served", "positive_feedback"):
        fine, reason = clean.check_served(candidate.outcome, candidate.finish_reason, answer)
        if not fine:
            return reject(reason)
    names = tuple(item.name for item in candidate.retrieved_items)
    fine, reason = clean.check_answer(answer, candidate.lang, names, trusted)
    if not fine:
        return reject(reason)
    row = DatasetRow(
        row_id="row-" + sha256_bytes(canonical_json([candidate.key, source, answer]))[:16],
        question=candidate.question,
        lang=candidate.lang,
        retrieved_items=candidate.retrieved_items,
        answer=answer,
        label_source=source,
        source_ids=[candidate.source_id, *candidate.label_ids],
        tools=candidate.tools,
    )
    try:
        rendered = render(row, builder)
    except QuestionError:
        return reject("bad_question")
    prompt = rendered.prompt
    verdicts = (
        clean.too_long(prompt.text, answer, builder.count_tokens, config.max_prompt_tokens, config.max_tokens),
        right_tool(candidate.tools, candidate.retrieved_items, prompt.used_ids),
        grounded(answer, candidate.retrieved_items, prompt.used_ids, prompt.text, known_names),
    )
    fine, reason = clean.first_failure(*verdicts)
    if not fine:
        return reject(reason)
    if source in ("golden", "synthetic"):
        return rendered
    parsed = house_style.parse(answer)
    named = parsed.name if parsed is not None else None
    tools = [item.id for item in candidate.retrieved_items if item.name == named and item.id in prompt.used_ids]
    return replace(rendered, row=replace(row, tools=tools))


def cap_clusters(rows: Sequence[RenderedRow], config: BuildConfig) -> tuple[list[RenderedRow], list[Reject]]:
    """At most `cluster_cap` rows a cluster; golden ones first, then by a seeded hash."""
    groups: dict[str, list[RenderedRow]] = defaultdict(list)
    for one in rows:
        groups[one.row.cluster_id].append(one)
    kept: list[RenderedRow] = []
    rejects: list[Reject] = []
    for cluster in sorted(groups):
        ordered = sorted(
            groups[cluster],
            key=lambda one: (one.row.label_source != "golden", draw(config.seed, one.row.row_id)),
        )
        kept += ordered[: config.cluster_cap]
        rejects += [
            Reject(one.row.source_ids[0], "cluster_cap", one.row.question) for one in ordered[config.cluster_cap :]
        ]
    return kept, rejects


def limit_synthetic(rows: Sequence[RenderedRow], config: BuildConfig) -> tuple[list[RenderedRow], list[Reject]]:
    """Synthetic rows beyond their share go, chosen by a seeded hash."""
    made = [one for one in rows if one.row.label_source == "synthetic"]
    own = [one for one in rows if one.row.label_source != "synthetic"]
    if config.synthetic_share >= 1.0:
        return list(rows), []
    limit = int(config.synthetic_share / (1.0 - config.synthetic_share) * len(own))
    ordered = sorted(made, key=lambda one: draw(config.seed, one.row.row_id))
    dropped = [Reject(one.row.source_ids[0], "synthetic_share", one.row.question) for one in ordered[limit:]]
    return [*own, *ordered[:limit]], dropped


def drop_touching(rows: Sequence[RenderedRow], config: BuildConfig) -> tuple[list[RenderedRow], list[Reject]]:
    """Training rows that the certificate would find near a hold-out row: a large split is sure to some 98 % only."""
    train = [number for number, one in enumerate(rows) if one.row.split == "train"]
    held = [number for number, one in enumerate(rows) if one.row.split == "holdout"]
    sets, held_sets = (shingle([rows[number].row.question for number in side]) for side in (train, held))
    near = touching(sets, held_sets, config.near_duplicate_threshold)
    gone = {number for number, is_near in zip(train, near.tolist(), strict=True) if is_near}
    dropped = [Reject(rows[number].row.source_ids[0], "bridges_split", rows[number].row.question) for number in gone]
    return [one for number, one in enumerate(rows) if number not in gone], dropped
