"""Preference pairs (DPO): a person's answer chosen, the answer that was served to the same prompt rejected. Pure.

Only answers that reviewers or users wrote are `chosen`, and only where the served one says something else and is
clean enough that its content is what is worse, not that it was cut off, failed or is in another language.
"""

from __future__ import annotations

from lake.rules import clean
from lake.rules.clean import Verdict


def answer_key(text: str) -> str:
    """Equal for answers that differ in case and spaces only."""
    return " ".join(text.split()).casefold()


def check_pair(
    label_source: str, chosen: str, served: str | None, outcome: str, finish_reason: str | None, lang: str,
    names: tuple[str, ...] = (),
) -> Verdict:  # fmt: skip
    """Whether `served` is a rejected answer to learn from: no_preference, same_answer, or a reason of cleaning."""
    if label_source not in clean.BY_PEOPLE:
        return False, "no_preference"
    return clean.first_failure(
        clean.outcome(outcome),
        clean.truncated(finish_reason),
        clean.check_answer(served, lang, names),
        clean.KEEP if answer_key(chosen) != answer_key(served or "") else (False, "same_answer"),
    )
