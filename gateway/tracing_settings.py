"""Settings of traces. Read once by each worker, then passed down."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class TracingSettings(BaseSettings):
    """Environment MULLE_*."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    otlp_endpoint: str = Field(
        default="", description="OTLP/HTTP collector, e.g. http://127.0.0.1:4318; empty: no traces (needs mulle[otel])."
    )
    otlp_queue: int = Field(
        default=2048,
        ge=16,
        le=1_000_000,
        description="Spans that may wait for the collector; more are dropped.",
    )
    otlp_timeout_s: float = Field(default=5.0, gt=0, le=60, description="Longest call of the collector, seconds.")
