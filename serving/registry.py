"""The registry on the command line: `python -m serving.registry
list|show|promote|rollback|retire|verify|rebuild`.

A thin door to `lake.registry`; prints one JSON object a line, so that it can be read by people and by `jq`.
Promotion here changes the registry only; `python -m flows.promote` also loads the adapter and proves it live.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from lake.adapter_files import read_manifest
from lake.errors import GateError
from lake.files import read_json
from lake.registry import AdapterEntry, Registry
from lake.settings import LakeSettings
from serving.cli import exit_code


def make_parser() -> argparse.ArgumentParser:
    """The commands and what each needs."""
    parser = argparse.ArgumentParser(prog="python -m serving.registry", description="Adapters and their states.")
    parser.add_argument("--models-dir", type=Path, default=None, help="default: MULLE_MODELS_DIR or ./models")
    parser.add_argument("--actor", default="", help="who does it, for the log; default: the user's name")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all adapters, oldest first; the champion is marked by its state")
    commands.add_parser("rebuild", help="write aliases and models/finetuned_adapter anew from the log")
    for name, text in (
        ("show", "manifest and history of one adapter"),
        ("verify", "hash all its files again"),
    ):
        commands.add_parser(name, help=text).add_argument("adapter_id")
    promote = commands.add_parser("promote", help="make it the champion; needs a passed gate record")
    promote.add_argument("adapter_id")
    promote.add_argument("--gate", type=Path, required=True, help="gate record (JSON) of its evaluation")
    rollback = commands.add_parser("rollback", help="back to the champion before this one")
    rollback.add_argument("--reason", default="rolled back by hand")
    retire = commands.add_parser("retire", help="take a candidate out of the choice")
    retire.add_argument("adapter_id")
    retire.add_argument("--reason", default="retired by hand")
    return parser


def _run(argv: Sequence[str] | None) -> int:
    given = make_parser().parse_args(argv)
    registry = Registry(given.models_dir or LakeSettings().models_dir)
    actor = given.actor or f"cli:{getpass.getuser()}"
    match given.command:
        case "list":
            for entry in registry.list():
                _say(_shown(entry))
        case "show":
            entry = registry.get(given.adapter_id)
            events = [asdict(event) for event in registry.history(given.adapter_id)]
            _say({**_shown(entry), "manifest": read_manifest(entry.path), "history": events})
        case "verify":
            _say({**_shown(registry.verify(given.adapter_id)), "verified": True})
        case "promote":
            _say(_shown(registry.promote(given.adapter_id, _gate_record(given.gate), actor)))
        case "rollback":
            champion = registry.rollback(actor, given.reason)
            _say(_shown(champion) if champion else {"champion": None, "note": "the base serves alone"})
        case "retire":
            _say(_shown(registry.retire(given.adapter_id, actor, given.reason)))
        case _:
            _say(registry.rebuild())
    return 0


def _gate_record(path: Path) -> dict[str, Any]:
    try:
        record = read_json(path)
    except (OSError, orjson.JSONDecodeError) as error:
        raise GateError(f"{path} can't be read as a gate record ({error}): evaluate the adapter first.") from error
    # a stage record of the evaluate flow carries the gate record inside its report
    inner = record.get("report", {}).get("gate") if isinstance(record, dict) else None
    if isinstance(inner, dict):
        return inner
    if not isinstance(record, dict):
        raise GateError(f"{path} is not a gate record: evaluate the adapter first.")
    return record


def _shown(entry: AdapterEntry) -> dict[str, Any]:
    return {**asdict(entry), "path": str(entry.path)}


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(value, default=str).decode() + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; one line and the error's exit code where something is wrong."""
    return exit_code(lambda: _run(argv))


if __name__ == "__main__":
    raise SystemExit(main())
