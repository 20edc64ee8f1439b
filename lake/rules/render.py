"""A row as the trainer reads it: `{"prompt", "completion"}` and the conversational form, from one `Prompt`.
Pure.

Both forms come out of the `PromptBuilder` that the gateway uses, so training and serving can't differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


def plain(rendered: RenderedRow) -> dict[str, str]:
    """One line of train.jsonl: the user message and the answer, without chat turns."""
    return {"prompt": rendered.prompt.text, "completion": rendered.row.answer}


def conversational(rendered: RenderedRow) -> dict[str, list[dict[str, Any]]]:
    """One line of train.chat.jsonl: the trainer puts the chat template around it."""
    return {
        "prompt": rendered.prompt.messages,
        "completion": [{"role": "assistant", "content": rendered.row.answer}],
    }
