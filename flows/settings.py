"""Settings of the flows' edge: defaults of what a deployment's parameters leave open. Read once a flow run."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class FlowSettings(BaseSettings):
    """Environment MULLE_*; paths are relative to the folder that the worker runs in."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    train_config: Path = Field(default=Path("configs/demo.toml"), description="Training hyperparameters (TOML).")
    build_config: Path = Field(
        default=Path("configs/dataset.toml"), description="What decides a dataset: limits, shares, lengths (TOML)."
    )
    gate_config: Path = Field(default=Path("configs/gate.toml"), description="Thresholds of the gate (TOML).")
    catalog: Path = Field(
        default=Path("data/sample/catalog.jsonl"), description="Tool catalogue: JSONL, CSV or Parquet."
    )
    test_set: Path = Field(
        default=Path("data/sample/test.jsonl"), description="Held-out questions with golden answers (JSONL)."
    )
    eval_max_tokens: int = Field(default=96, ge=8, le=4096, description="Longest answer in an evaluation, tokens.")
    prefect_port: int = Field(default=4200, ge=1, le=65535, description="TCP port of the Prefect server of `make up`.")
    gateway_port: int = Field(default=8700, ge=1, le=65535, description="TCP port of the gateway of `make up`.")
