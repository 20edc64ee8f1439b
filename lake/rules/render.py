"""A row as the trainer reads it: `{"prompt", "completion"}`, the conversational form, and preference pairs. Pure.

All forms come out of the `PromptBuilder` that the gateway uses, so training and serving can't differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from lake.prompt import Prompt, PromptBuilder
from lake.schemas.rows import DatasetRow


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """A dataset row with its prompt and their lengths in the model's tokens (without chat turns)."""

    row: DatasetRow
    prompt: Prompt
    prompt_tokens: int
    completion_tokens: int


def render(row: DatasetRow, builder: PromptBuilder) -> RenderedRow:
    """Raises `QuestionError` where the question can't be a prompt."""
    prompt = builder.build(row.question, row.retrieved_items)
    return RenderedRow(row, prompt, builder.count_tokens(prompt.text), builder.count_tokens(row.answer))


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def plain(prompt: str, answer: str) -> dict[str, str]:
    """One line of train.jsonl: the user message and the answer, without chat turns."""
    return {"prompt": prompt, "completion": answer}


def conversational(prompt: str, answer: str) -> dict[str, list[dict[str, str]]]:
    """One line of train.chat.jsonl: the trainer puts the chat template around it."""
    return {"prompt": [_turn("user", prompt)], "completion": [_turn("assistant", answer)]}


def preference(prompt: str, chosen: str, rejected: str) -> dict[str, list[dict[str, str]]]:
    """One line of train.dpo.jsonl: two answers to one prompt, in the form that trl's DPOTrainer takes."""
    return {
        "prompt": [_turn("user", prompt)],
        "chosen": [_turn("assistant", chosen)],
        "rejected": [_turn("assistant", rejected)],
    }
