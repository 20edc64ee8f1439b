"""Where things lie. Read once at the edge of each program and passed down."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from lake.errors import SetupError
from lake.location import LakeDir, parse_location, s3_options
from lake.privacy.types import parse_types


class LakeSettings(BaseSettings):
    """Folders of one Mulle, from which every path of the product derives, and how long private records are kept."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    data_dir: Path = Field(default=Path("data"), description="Folder of journal, lake, datasets, index and run files.")
    lake_uri: str = Field(
        default="", description="Where the tables lie: a folder or s3://bucket/prefix; empty: lake/ in the data folder."
    )
    lake_s3_endpoint: str = Field(
        default="", description="URL of the S3 server of the lake; empty: AWS_ENDPOINT_URL, else Amazon's."
    )
    lake_s3_region: str = Field(default="", description="Region of the lake's bucket; empty: AWS_REGION.")
    lake_s3_key_id: SecretStr = Field(
        default=SecretStr(""), description="Access key id for the lake's bucket; empty: the AWS_* variables."
    )
    lake_s3_secret: SecretStr = Field(
        default=SecretStr(""), description="Secret access key for the lake's bucket; empty: the AWS_* variables."
    )
    models_dir: Path = Field(default=Path("models"), description="Folder of base models, adapters and GGUF files.")

    mask_off: str = Field(
        default="",
        description="Types of personal data that stay in the lake as they are, comma separated; empty: all are masked.",
    )
    opt_out_days: float = Field(
        default=7.0,
        gt=0,
        le=365,
        description="How long the text of a request with `store: false` is kept for operations, days.",
    )

    erase_window_days: float = Field(
        default=7.0,
        gt=0,
        le=365,
        description="How long the bytes of what was erased may stay on the disk, days; readers see it no more at once.",
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
    def lake_dir(self) -> LakeDir:
        """The folder of the tables, or their place on S3. Raises `SetupError` for an address that is neither."""
        if not self.lake_uri:
            return self.data_dir / "lake"
        key, secret = self.lake_s3_key_id.get_secret_value(), self.lake_s3_secret.get_secret_value()
        return parse_location(self.lake_uri, s3_options(self.lake_s3_endpoint, self.lake_s3_region, key, secret))

    @property
    def review_leases(self) -> Path:
        """Who works on which review item: SQLite, beside the lake; it holds no text."""
        return self.data_dir / "review-leases.sqlite3"

    @property
    def unmasked_types(self) -> frozenset[str]:
        """Of `mask_off`. Raises `SetupError` naming a type that does not exist."""
        return parse_types(self.mask_off)

    @property
    def datasets_dir(self) -> Path:
        return self.data_dir / "datasets"

    @property
    def erasures_dir(self) -> Path:
        """Work files of erasures that are not proven yet: they name what is looked for."""
        return self.data_dir / "erasures"

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
