"""Parsers, short form; one that lets a foreign error out is caught."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import strategies as st

from tests.faults import parsers
from tests.faults.harness import CI_SEED


@pytest.mark.parametrize("name", parsers.PROPERTIES)
def test_well_formed_or_one_typed_error(tmp_path: Path, name: str) -> None:
    tally = parsers.run(150, CI_SEED, tmp_path, properties={name: parsers.PROPERTIES[name]})
    assert tally.failures == [] and tally.counts[name] >= 20


def test_a_foreign_error_is_caught(tmp_path: Path) -> None:
    def careless(_: Path, data: st.DataObject) -> None:
        orjson.loads(data.draw(st.binary()))

    assert (
        "careless: JSONDecodeError" in parsers.run(50, CI_SEED, tmp_path, properties={"careless": careless}).failures[0]
    )
