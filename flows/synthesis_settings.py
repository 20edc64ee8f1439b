"""Settings of the synthesis: who writes, which kinds of question, what it may cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.steps.budget import Prices
from flows.steps.synthesis_asks import shares_of


class SynthesisSettings(BaseSettings):
    """Environment MULLE_SYNTH_*."""

    model_config = SettingsConfigDict(env_prefix="MULLE_SYNTH_", frozen=True, extra="ignore")

    api_base: str = Field(
        default="", description="OpenAI-compatible base URL that writes synthetic QA; empty: LLM_API_BASE."
    )
    model: str = Field(default="", description="Model name at that URL; empty: LLM_MODEL_NAME.")
    api_key: SecretStr = Field(default=SecretStr(""), description="Bearer key for that URL; empty: LLM_API_KEY.")
    form: Literal["auto", "lines", "json"] = Field(
        default="auto",
        description="How it is asked: json for models that follow instructions, lines (worked examples) for small "
        "ones; auto: json where MULLE_SYNTH_API_BASE is set.",
    )
    shares: str = Field(
        default="need=0.45,howto=0.15,typo=0.15,compare=0.15,no_answer=0.1",
        description="Share of the asks by kind of question: need, howto, typo, compare, no_answer.",
    )
    korean_share: float = Field(default=0.67, ge=0, le=1, description="Share of Korean asks; the others are English.")
    max_tools: int = Field(default=2_000, ge=1, description="Most catalogue entries that one run asks about.")
    concurrency: int = Field(default=0, ge=0, le=256, description="Asks at once; 0: MULLE_LLAMACPP_SLOTS.")
    deadline_s: float = Field(default=120.0, gt=0, le=3600, description="Longest wait for one answer, seconds.")
    max_tokens: int = Field(default=480, ge=32, le=32_768, description="Longest answer to one ask, tokens.")
    prompt_price: float = Field(default=0.0, ge=0, description="Price of a million prompt tokens, in your currency.")
    completion_price: float = Field(
        default=0.0, ge=0, description="Price of a million tokens that the model writes, in your currency."
    )
    budget_tokens: int = Field(default=0, ge=0, description="Most tokens one run may use, both ways; 0: no limit.")
    budget_cost: float = Field(default=0.0, ge=0, description="Most money one run may cost, in your currency; 0: any.")
    judge: bool = Field(
        default=False, description="Let the teacher (MULLE_TEACHER_*) say yes or no to each row before it is kept."
    )

    @field_validator("shares")
    @classmethod
    def _known_kinds(cls, value: str) -> str:
        shares_of(value)
        return value

    @property
    def prices(self) -> Prices:
        return Prices(self.prompt_price, self.completion_price)
