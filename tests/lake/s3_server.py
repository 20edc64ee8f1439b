"""A real S3 server (moto) as a process on loopback, and a bucket in it for each test."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError

from lake.settings import LakeSettings


@contextmanager
def s3_server() -> Iterator[str]:
    """URL of a server that lives as long as the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                client(url).list_buckets()
                break
            except BotoCoreError:
                assert process.poll() is None, "the S3 server ended"
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def client(url: str) -> Any:
    return boto3.client(
        "s3", endpoint_url=url, aws_access_key_id="id", aws_secret_access_key="secret", region_name="us-east-1"
    )


def settings(data_dir: Path, url: str, bucket: str) -> LakeSettings:
    """A Mulle whose lake lies in the bucket."""
    return LakeSettings.model_validate(
        {
            "data_dir": data_dir,
            "lake_uri": f"s3://{bucket}/team/lake/",
            "lake_s3_endpoint": url,
            "lake_s3_region": "us-east-1",
            "lake_s3_key_id": "id",
            "lake_s3_secret": "secret",
        }
    )
