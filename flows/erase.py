"""Erase a request, all requests of a key, or a session: hidden at once, its bytes gone within MULLE_ERASE_WINDOW_DAYS.

Reads and writes everything that the subject reached (`lake/erase.py` says what and in which order). Ids never pass
through Prefect, which would keep them: the command begins an erasure, and the flow carries on with it by its own id.
Run daily without one (the deployment does): it removes and proves what is due.

    python -m flows.erase --request-id 01J... [--dry-run] [--now]     or --key-id, --session-id
    python -m flows.erase [--now]                                     what is due, or all
    prefect deployment run 'erase/local'
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import orjson
import typer
from prefect import flow

from flows.edge import run_stage
from flows.steps.erase import run_erase
from lake.erase import begin, preview
from lake.erase_plan import Kind
from lake.errors import InputError, MulleError
from lake.settings import LakeSettings


@flow(name="erase")
def erase_data(erasure_id: str | None = None, now: bool = False, run_id: str | None = None) -> dict[str, Any]:
    """Carry on with one erasure, or with all; remove and prove what is due (or everything, `now`)."""
    return run_stage("erase", run_id, lambda stage: run_erase(stage, erasure_id, now))


def _subject(request_id: str, key_id: str, session_id: str) -> tuple[Kind, str] | None:
    asked: tuple[tuple[Kind, str], ...] = (("request", request_id), ("key", key_id), ("session", session_id))
    given = [one for one in asked if one[1]]
    if len(given) > 1:
        raise InputError("Name one of --request-id, --key-id and --session-id.")
    return given[0] if given else None


def run(subject: tuple[Kind, str] | None, dry_run: bool, now: bool) -> dict[str, Any]:
    """What the command does; the report. Raises `MulleError` kinds."""
    if subject is None:
        return erase_data(now=now)
    paths = LakeSettings()
    if dry_run:
        return preview(paths, *subject, log=_say)
    work = begin(paths, *subject, now=datetime.now(UTC), log=_say)
    if work is None:
        return {"state": "proven", "note": "it was erased before, and nothing of it is left"}
    return erase_data(erasure_id=work.erasure_id, now=now)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def command(
    request_id: Annotated[str, typer.Option(help="The request to erase.")] = "",
    key_id: Annotated[str, typer.Option(help="Erase every request that this API key made.")] = "",
    session_id: Annotated[str, typer.Option(help="Erase every request of this session.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Name what would be reached, and touch nothing.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Remove and prove at once, not when the window ends.")] = False,
) -> None:
    """Erase a request, a key's requests or a session; without one, carry on with what is due."""
    try:
        report = run(_subject(request_id, key_id, session_id), dry_run, now)
    except MulleError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        sys.exit(error.exit_code)
    typer.echo(orjson.dumps(report, option=orjson.OPT_INDENT_2, default=str).decode())


if __name__ == "__main__":
    typer.run(command)
