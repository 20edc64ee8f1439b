"""Settings of the stronger model: it labels logged questions (`flows/teach.py`) and judges synthetic ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.steps.budget import Prices


class TeacherSettings(BaseSettings):
    """Environment MULLE_TEACHER_*."""

    model_config = SettingsConfigDict(env_prefix="MULLE_TEACHER_", frozen=True, extra="ignore")

    api_base: str = Field(default="", description="OpenAI-compatible base URL of the stronger model; empty: none.")
    model: str = Field(default="", description="Model name at that URL.")
    api_key: SecretStr = Field(default=SecretStr(""), description="Bearer key for that URL.")
    concurrency: int = Field(default=4, ge=1, le=256, description="Questions asked of the teacher at once.")
    deadline_s: float = Field(default=120.0, gt=0, le=3600, description="Longest wait for one answer, seconds.")
    max_tokens: int = Field(default=400, ge=16, le=32_768, description="Longest answer of the teacher, tokens.")
    limit: int = Field(default=500, ge=1, description="Questions that one teacher run asks.")
    order: Literal["value", "traffic", "random"] = Field(
        default="value", description="Which questions come first: value (as in the review queue), traffic or random."
    )
    prompt_price: float = Field(
        default=0.0, ge=0, description="Price of a million prompt tokens of the teacher, in your currency."
    )
    completion_price: float = Field(
        default=0.0, ge=0, description="Price of a million tokens that the teacher writes, in your currency."
    )
    budget_tokens: int = Field(default=0, ge=0, description="Most tokens one run may use, both ways; 0: no limit.")
    budget_cost: float = Field(default=0.0, ge=0, description="Most money one run may cost, in your currency; 0: any.")

    @property
    def prices(self) -> Prices:
        return Prices(self.prompt_price, self.completion_price)
