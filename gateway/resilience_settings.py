"""Settings of what happens when the LLM server fails: the circuit breaker and the second backend."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ResilienceSettings(BaseSettings):
    """Environment MULLE_*."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    breaker_failures: int = Field(
        default=5, ge=1, le=10_000, description="Faults of an LLM server in a row after which it is left alone."
    )
    breaker_open_s: float = Field(
        default=10.0, gt=0, le=3600, description="Time that it is left alone before one call tries it, seconds."
    )
    primary_share: float = Field(
        default=0.6,
        gt=0,
        le=1,
        description="Share of a request's LLM time after which a silent server gives way to the fallback, 0 to 1.",
    )


class FallbackLLMSettings(BaseSettings):
    """`LLM_FALLBACK_*` of the process environment: used only where MULLE_ENV_FILE is not set."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    llm_fallback_api_base: str = Field(
        default="", description="Address of the LLM server asked where the first fails; empty: none."
    )
    llm_fallback_model_name: str = Field(default="", description="Model asked of the fallback server, or champion.")
    llm_fallback_api_key: SecretStr = Field(
        default=SecretStr(""), description="Bearer key of the fallback server; empty: none."
    )
    llm_fallback_profile: str = Field(
        default="", description="vllm, lmstudio, llamacpp, ollama or openai; empty: found by asking it."
    )
