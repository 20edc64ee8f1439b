"""One prompt for the gateway and the flows: the settings that decide it, and the builder made from them.

The gateway's live prompts, the training rows and the evaluation all come from `make_prompt_builder`, so that the
token ids at training equal those that the server sees.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from lake.prompt import PromptBuilder
from serving.tokens import token_counter


class PromptSettings(BaseSettings):
    """Environment MULLE_*."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    context_budget_tokens: int = Field(
        default=320, ge=32, le=8192, description="Most tokens of the summarised context in a prompt."
    )
    context_items: int = Field(default=3, ge=1, le=20, description="Most tools shown in a prompt's context.")
    tokenizer_json: Path | None = Field(
        default=None, description="tokenizer.json of the served model; unset: the prepared base model's."
    )


def make_prompt_builder(settings: PromptSettings, models_dir: Path, base_name: str) -> PromptBuilder:
    """The builder with the served model's own token counter; an upper estimate where there is no tokenizer."""
    path = settings.tokenizer_json
    if path is None:
        prepared = models_dir / "base" / base_name / "hf" / "tokenizer.json"
        path = prepared if prepared.is_file() else None
    counter = token_counter(path)
    return PromptBuilder(counter.count, settings.context_budget_tokens, settings.context_items)
