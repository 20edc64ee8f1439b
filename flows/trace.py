"""Where an answer came from and what became of a request: adapter, dataset, rows, source requests, and back.

Reads the journal, the tables, the datasets and the registry; writes nothing.

    python -m flows.trace 01J...                                   as a tree; --json for machines
    python -m flows.trace --row row-... | --dataset ... | --adapter ...
    prefect deployment run 'trace/local' -p adapter=...
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import orjson
import typer
from prefect import flow

from flows.steps.trace import run_trace
from lake.errors import MulleError
from lake.settings import LakeSettings
from lake.trace import SOURCES_SHOWN, to_dict, tree


@flow(name="trace")
def trace_lineage(
    request_id: str | None = None,
    row: str | None = None,
    dataset: str | None = None,
    adapter: str | None = None,
    sources: int = SOURCES_SHOWN,
) -> dict[str, Any]:
    """The trace of one request, row, dataset or adapter, both ways."""
    return to_dict(run_trace(LakeSettings(), request_id, row, dataset, adapter, sources))


def command(
    request_id: Annotated[str, typer.Argument(help="The request_id of an answer.")] = "",
    row: Annotated[str, typer.Option(help="A row id of a dataset.")] = "",
    dataset: Annotated[str, typer.Option(help="A dataset version.")] = "",
    adapter: Annotated[str, typer.Option(help="An adapter id.")] = "",
    sources: Annotated[int, typer.Option(min=0, help="How many source ids of a dataset to show.")] = SOURCES_SHOWN,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of a tree.")] = False,
) -> None:
    """Trace a request, a row, a dataset or an adapter both ways. Needs no Prefect: nothing of it is kept there."""
    try:
        trace = run_trace(LakeSettings(), request_id, row, dataset, adapter, sources)
    except MulleError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        sys.exit(error.exit_code)
    typer.echo(orjson.dumps(to_dict(trace), option=orjson.OPT_INDENT_2).decode() if json else tree(trace))


if __name__ == "__main__":
    typer.run(command)
