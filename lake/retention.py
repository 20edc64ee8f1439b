"""How long things are kept: read by `flows.maintain`, which removes what is past it."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class RetentionSettings(BaseSettings):
    """Environment MULLE_*. What an erasure hides is gone within its own window, whatever stands here."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    compact_files: int = Field(
        default=8, ge=2, le=10_000, description="Small files of one day and table from which on they are merged, files."
    )
    compact_mb: int = Field(default=128, ge=1, le=2048, description="Size up to which files are merged, MB.")
    # At least one: a file that is being written is in no commit yet, and only its age protects it.
    vacuum_hours: int = Field(
        default=24,
        ge=1,
        le=144,
        description="How long files that a table no longer has stay for readers that run, hours.",
    )
    dataset_days: float = Field(
        default=90.0,
        ge=0,
        le=3650,
        description="How long the table versions that a dataset was built from stay readable, days from its build.",
    )
    log_days: float = Field(
        default=30.0, ge=1, le=3650, description="How long earlier versions of a table can be told from its log, days."
    )
    journal_days: float = Field(
        default=30.0, ge=0, le=3650, description="How long journal segments stay once the lake has them, days."
    )
