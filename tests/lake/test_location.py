"""Where the lake lies follows from the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from lake.errors import SetupError
from lake.location import S3Location, parse_location
from lake.settings import LakeSettings


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("/mnt/lake", Path("/mnt/lake")),
        ("lake", Path("lake")),
        ("file:///mnt/my%20lake", Path("/mnt/my lake")),
        ("s3://bucket", S3Location("s3://bucket")),
        ("s3://bucket/a/b/", S3Location("s3://bucket/a/b")),
        ("s3a://bucket/a", S3Location("s3://bucket/a")),
    ],
)
def test_a_folder_or_s3(text: str, place: Path | S3Location) -> None:
    found = parse_location(text, {})
    assert found == place
    assert str(found / "runs") == f"{place}/runs" and (found / "runs").name == "runs"


@pytest.mark.parametrize(
    "text", ["gs://bucket/x", "s3://", "s3://key:secret@bucket/x", "file://host/x", "s3://b/x?y=1"]
)
def test_anything_else_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(SetupError, match="MULLE_LAKE_URI") as caught:
        parse_location(text, {})
    assert "secret" not in str(caught.value)


def test_the_lake_is_in_the_data_folder_unless_a_setting_says_where(tmp_path: Path) -> None:
    assert LakeSettings(data_dir=tmp_path).lake_dir == tmp_path / "lake"
    assert LakeSettings(data_dir=tmp_path, lake_uri="/mnt/x").lake_dir == Path("/mnt/x")


def test_each_setting_of_s3_reaches_the_client(tmp_path: Path) -> None:
    lake = LakeSettings.model_validate(
        {
            "data_dir": tmp_path,
            "lake_uri": "s3://b/x",
            "lake_s3_endpoint": "http://127.0.0.1:9",
            "lake_s3_region": "r",
            "lake_s3_key_id": "k",
            "lake_s3_secret": "s",
        }
    ).lake_dir
    assert isinstance(lake, S3Location)
    assert {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "r",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
    }.items() <= lake.options.items()
    plain = LakeSettings(data_dir=tmp_path, lake_uri="s3://b/x").lake_dir
    assert isinstance(plain, S3Location) and not any(name.startswith("AWS_") for name in plain.options)
