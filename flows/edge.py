"""The one place where steps meet Prefect: settings are read, the stage is timed and recorded, an artifact made.

Every flow body is `return run_stage(name, run_id, step)`; a step is a plain function that takes a `StageContext`
and returns a JSON-able report. A stage record (`data/runs/<run_id>/<stage>.json`) is written whether it succeeds
or fails, so a report can always say what happened and how long it took.
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from prefect import Flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import MissingContextError

from flows.settings import FlowSettings
from flows.steps.stage import StageContext, new_run_id, open_stage, summary_markdown
from lake.errors import MulleError
from lake.settings import LakeSettings
from serving.settings import ServingSettings

Report = dict[str, Any]


def _logger() -> logging.Logger | logging.LoggerAdapter[Any]:
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("mulle.flows")


def run_stage(name: str, run_id: str | None, step: Callable[[StageContext], Report]) -> Report:
    """Run one step with its settings, record and Markdown artifact; errors pass through after being recorded."""
    context = StageContext(
        run_id=run_id or new_run_id(),
        name=name,
        lake=LakeSettings(),
        serving=ServingSettings(),
        flows=FlowSettings(),
        log=_logger().info,
        environ=dict(os.environ),
    )
    with open_stage(context) as record:
        record.report = step(context)
    create_markdown_artifact(
        key=f"{name}-report",
        markdown=summary_markdown(name, context.run_id, record.seconds, record.report),
        description=f"{name} of run {context.run_id}",
    )
    return record.report | {"run_id": context.run_id}


def main(flow: Flow[..., Any], **others: Flow[..., Any]) -> None:
    """`python -m flows.NAME`: the flow's parameters as options; one line and an exit code for known errors.

    With `others`, a first word chooses one of them, and a second one is its first parameter (`python -m flows.NAME WORD
    [VALUE] [--OPTION ...]`); without such a word, `flow` runs.
    """
    if len(sys.argv) > 1 and sys.argv[1] in others:
        flow = others[sys.argv.pop(1)]
        if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
            sys.argv.insert(1, f"--{next(iter(inspect.signature(flow.fn).parameters)).replace('_', '-')}")

    def call(**options: Any) -> None:
        try:
            flow(**options)
        except MulleError as error:
            typer.echo(f"{error.code}: {error}", err=True)
            sys.exit(error.exit_code)

    call.__signature__ = inspect.signature(flow.fn)  # type: ignore[attr-defined]
    call.__annotations__ = inspect.get_annotations(flow.fn, eval_str=True)
    call.__doc__ = (flow.fn.__doc__ or "").split("\n\n")[0]
    typer.run(call)
