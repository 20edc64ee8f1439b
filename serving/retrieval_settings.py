"""Settings of retrieval, shared by the gateway and the flow that builds the index. Read once at the edge."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

_CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class RetrievalSettings(BaseSettings):
    """Environment MULLE_*; the embedder itself is `ServingSettings.embedder`."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    allow_hub: bool = Field(
        default=False, description="Let sentence-transformers download a model that is not on this machine."
    )
    reranker: str = Field(
        default="linear", description="Reranker: linear (learned weights), none, or a CrossEncoder's name or folder."
    )
    reranker_file: Path = Field(
        default=_CONFIGS / "reranker.json",
        description="Weights of the linear reranker (python -m serving.rerank fit).",
    )
    candidates: int = Field(
        default=50, ge=5, le=1000, description="Candidates taken from each of the three rankings, before reranking."
    )
    cross_encoder_candidates: int = Field(
        default=20, ge=1, le=200, description="Best candidates that a CrossEncoder reads, where one is set."
    )
    embed_batch: int = Field(
        default=32, ge=1, le=1024, description="Questions embedded in one call of the encoder, at most."
    )
