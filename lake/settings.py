"""Where things lie. Read once at the edge of each program and passed down."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from lake.errors import SetupError


class LakeSettings(BaseSettings):
    """Folders of one Mulle, from which every path of the product derives, and how long private records are kept."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    data_dir: Path = Field(default=Path("data"), description="Folder of journal, lake, datasets, index and run files.")
    models_dir: Path = Field(default=Path("models"), description="Folder of base models, adapters and GGUF files.")

    opt_out_days: float = Field(
        default=7.0,
        gt=0,
        le=365,
        description="How long the text of a request with `store: false` is kept for operations, days.",
    )

    @property
    def sample_dir(self) -> Path:
        return self.data_dir / "sample"

    @property
    def journal_dir(self) -> Path:
        return self.data_dir / "journal"

    @property
    def private_journal_dir(self) -> Path:
        """Records of requests with `store: false`: kept for operations for a few days, never ingested."""
        return self.data_dir / "private-journal"

    @property
    def lake_dir(self) -> Path:
        return self.data_dir / "lake"

    @property
    def datasets_dir(self) -> Path:
        return self.data_dir / "datasets"

    @property
    def index_dir(self) -> Path:
        return self.data_dir / "index"

    @property
    def run_dir(self) -> Path:
        return self.data_dir / "run"

    @property
    def reports_dir(self) -> Path:
        return self.data_dir / "reports"

    @property
    def prefect_dir(self) -> Path:
        return self.data_dir / "prefect"

    @property
    def base_dir(self) -> Path:
        return self.models_dir / "base"

    @property
    def adapters_dir(self) -> Path:
        return self.models_dir / "adapters"

    @property
    def adapter_link(self) -> Path:
        """`models/finetuned_adapter`: a projection of the registry, written by `lake.registry` only."""
        return self.models_dir / "finetuned_adapter"

    @property
    def gguf_dir(self) -> Path:
        return self.models_dir / "gguf"


def settings_error(error: ValidationError) -> SetupError:
    """One line that names each variable that is wrong, without its value (it may be a key)."""
    wrong = "; ".join(
        f"MULLE_{'.'.join(str(part) for part in entry['loc']).upper()}: {entry['msg']}" for entry in error.errors()
    )
    return SetupError(f"A setting is wrong: {wrong}.")
