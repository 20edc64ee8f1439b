"""Settings of the gateway's processes. Read by the parent too, so nothing heavy is imported here."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WorkerSettings(BaseSettings):
    """Environment MULLE_*: how many workers, and what becomes of one that dies."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    workers: int = Field(default=1, ge=1, le=64, description="Worker processes of the gateway.")
    worker_start_timeout_s: float = Field(
        default=300.0,
        gt=0,
        le=3600,
        description="A worker that is not ready by then is ended and started anew, seconds.",
    )
    worker_start_tries: int = Field(
        default=5, ge=1, le=1000, description="Starts in a row that may fail before the gateway ends with that error."
    )
    worker_backoff_max_s: float = Field(
        default=15.0,
        ge=0,
        le=600,
        description="Longest wait before a worker that keeps dying is started anew, seconds.",
    )
