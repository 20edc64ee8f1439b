"""What the shared turn of the wheel leaves for the tests to look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.demo import Plan
from flows.steps.stack import Stack
from lake.files import read_json


@dataclass(frozen=True)
class Turned:
    """A finished turn whose servers (Prefect, gateway, both llama.cpp) still run."""

    stack: Stack
    plan: Plan
    traffic: dict[str, Any]
    page: Path
    table: str

    def stage(self, name: str) -> dict[str, Any]:
        return read_json(self.stack.run_folder(self.plan.run_id) / f"{name}.json")
