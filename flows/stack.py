"""Keep the system running: `make up` starts it and prints its URLs, `make down` stops it.

    python -m flows.stack up | down | status

`up` starts what the demo starts; where an adapter is in service, vLLM too, and the gateway asks the champion.
"""

from __future__ import annotations

import os
import sys

import typer

from flows.settings import FlowSettings
from flows.steps.moves import switch
from flows.steps.stack import Ports, Stack
from lake.errors import MulleError
from lake.registry import Registry
from lake.settings import LakeSettings
from serving import processes
from serving.backends import Backend, following_champion
from serving.settings import ServingSettings
from serving.targets import save_target

app = typer.Typer(help=(__doc__ or "").split("\n")[0], no_args_is_help=True)


def _stack() -> Stack:
    serving, flows = ServingSettings(), FlowSettings()
    ports = Ports(
        prefect=flows.prefect_port,
        gateway=flows.gateway_port,
        llamacpp=serving.llamacpp_port,
        llamacpp_tuned=serving.llamacpp_tuned_port,
        vllm=serving.vllm_port,
    )
    return Stack(LakeSettings(), serving, ports, dict(os.environ), typer.echo)


def _start(stack: Stack) -> None:
    stack.start_prefect()
    if not (stack.lake.index_dir / "current").exists():
        stack.run_deployment("index/local", {})
    base = stack.start_llamacpp_base()
    backend = Backend("lmstudio", stack.llamacpp_url, base)
    save_target(stack.lake.run_dir, "lmstudio", backend)
    champion = Registry(stack.lake.models_dir).champion()
    if champion is not None:
        merged = stack.newest_gguf(champion.adapter_id)
        if merged is not None:  # LM Studio's side serves the adapter too, once it was exported
            name = champion.adapter_id
            stack.start_llamacpp("llamacpp-tuned", merged, name, stack.ports.llamacpp_tuned)
            save_target(
                stack.lake.run_dir, "lmstudio", Backend("lmstudio", stack.llamacpp_tuned_url, name, adapter=name)
            )
        # A later promotion loads its adapter into this vLLM, and the gateway follows.
        backend = following_champion(stack.serve_champion())
        save_target(stack.lake.run_dir, "vllm", backend)
    switch(stack.gateway, backend, champion.adapter_id if champion is not None else "")
    stack.start_gateway()


@app.command()
def up() -> None:
    """Start everything that does not run yet and print the URLs."""
    stack = _stack()
    try:
        _start(stack)
    except MulleError as error:
        typer.echo(f"{error.code}: {error}", err=True)
        stack.stop_all()
        sys.exit(error.exit_code)
    typer.echo(
        f"\n  search    {stack.gateway_url}/api/v1/search   (schema: {stack.gateway_url}/openapi.json)"
        f"\n  metrics   {stack.gateway_url}/metrics"
        f"\n  Prefect   {stack.prefect_url}"
        f"\n  LM Studio stand-in  {stack.llamacpp_url}"
        f"\n\n  a turn of the wheel:  PREFECT_API_URL={stack.prefect_url}/api "
        ".venv/bin/prefect deployment run 'cycle/local' --watch"
        "\n  move the gateway:     make switch TO=lmstudio"
        "\n  stop everything:      make down"
    )


@app.command()
def down() -> None:
    """Stop everything that was started here."""
    stopped = _stack().stop_all()
    typer.echo("stopped: " + (", ".join(stopped) or "nothing was running"))


@app.command()
def status() -> None:
    """What runs, with pid and log."""
    for entry in processes.status(LakeSettings().run_dir):
        state = "running" if entry.alive else "ended"
        typer.echo(f"  {state:8} {entry.record.name:16} pid {entry.record.pid}  {entry.record.log}")


if __name__ == "__main__":
    app()
