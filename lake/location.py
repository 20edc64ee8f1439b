"""Where the lake lies: a local folder or `s3://bucket/prefix`, behind one type for both.

Pure, and light to import (`lake/storage.py` reads and writes there). Credentials are those of the settings, else of
the standard AWS_* variables. Invariant: nobody waits for ever; a server that is down is an error within about half a
minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lake.errors import SetupError

RETRIES = 4
_BOUNDS = {"connect_timeout": "5s", "timeout": "60s", "retry_timeout": "30s", "max_retries": str(RETRIES)}


@dataclass(frozen=True, slots=True)
class S3Location:
    """A folder on S3: `uri` without a slash at its end, `options` as delta-rs takes them (they hold the keys)."""

    uri: str
    options: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, compare=False)

    def __truediv__(self, name: str) -> S3Location:
        return S3Location(f"{self.uri}/{name}", self.options)

    def __str__(self) -> str:
        return self.uri

    @property
    def name(self) -> str:
        """The last part."""
        return self.uri.rsplit("/", 1)[-1]


Location = Path | S3Location
LakeDir = Path | S3Location  # of the whole lake; a table is a folder in it


def s3_options(endpoint: str = "", region: str = "", key_id: str = "", secret: str = "") -> dict[str, str]:
    """What delta-rs and polars need to reach the server; what is empty comes from the AWS_* variables."""
    given = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": region,
        "AWS_ACCESS_KEY_ID": key_id,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ALLOW_HTTP": "true" if endpoint.startswith("http://") else "",
    }
    return {**{name: value for name, value in given.items() if value}, **_BOUNDS}


def parse_location(text: str, options: Mapping[str, str]) -> Location:
    """A path, `file://...`, or `s3://bucket/prefix`. Raises `SetupError` for anything else."""
    if "://" not in text:
        return Path(text)
    parts = urlsplit(text)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path:
        return Path(unquote(parts.path))
    if parts.scheme in ("s3", "s3a") and parts.netloc and not (parts.query or parts.fragment or "@" in parts.netloc):
        return S3Location(f"s3://{parts.netloc}{parts.path}".rstrip("/"), options)
    raise SetupError(
        f"The lake can't lie at {parts.scheme}://…: set MULLE_LAKE_URI to a folder or to s3://bucket/prefix."
    )
