"""A toxic LLM server behind a whole gateway, short form; a gateway without time limits is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import toxics
from tests.faults.harness import CI_SEED

pytestmark = pytest.mark.slow


def test_every_call_ends_typed_and_on_record(tmp_path: Path) -> None:
    names = ("hang_midway", "half_json")
    tally = toxics.run(2, CI_SEED, tmp_path, names=names, timed=False, calls=10, deadline_s=1.0)
    assert tally.failures == []
    assert tally.counts["toxic calls"] == 20 and tally.counts["llm_timeout"] and tally.counts["degraded"]


def test_a_gateway_without_time_limits_is_caught(tmp_path: Path) -> None:
    tally = toxics.run(1, CI_SEED, tmp_path, bug="endless", names=("hang",), timed=False, calls=4, deadline_s=1.0)
    assert tally.failures
