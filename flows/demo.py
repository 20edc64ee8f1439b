"""The wheel turns once, on real parts: `make demo`.

Starts Prefect, llama.cpp (LM Studio's engine) and the gateway on free loopback ports, asks the sample questions,
imports the sample reviews, runs the deployment `cycle/local`, moves the gateway to vLLM with the new adapter and
then to llama.cpp with the merged GGUF while questions keep coming, and ends with a table and one HTML report.
Everything is stopped at the end and on Ctrl-C.

    python -m flows.demo --questions 220 --limit 60 --synth-tools 6 --train-config configs/demo.toml
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from flows.steps.ask import ask
from flows.steps.clock import StageClock, clock_text
from flows.steps.moves import move_under_load, switch
from flows.steps.report import build_report, run_environment, summary_table
from flows.steps.stack import Ports, Stack
from flows.steps.stage import new_run_id
from lake.errors import MulleError, SetupError
from lake.files import read_json, write_json_atomic
from lake.progress import Progress
from lake.settings import LakeSettings
from serving import processes
from serving.backends import Backend
from serving.settings import ServingSettings

# Seconds a stage took on 2 cores when this was written; StageClock remembers this machine's own.
ESTIMATES = {"start": 40, "ask": 210, "reviews": 10, "cycle": 500, "vllm": 15, "lmstudio": 140}


@dataclass(frozen=True)
class Plan:
    """What is asked of this demo run."""

    run_id: str
    questions: list[str]
    reviews: Path
    limit: int
    synth_tools: int
    train_config: Path
    users: int = 4  # questions at once; llama.cpp answers two at a time on 2 cores
    load_seconds: float = 6.0  # of traffic before and after a move
    keep_vllm: bool = False  # leave it running beside the last evaluation (the tests ask it more)


def sample_questions(sample_dir: Path, count: int) -> list[str]:
    """The first `count` sample questions, those with a reviewed answer first."""
    reviewed = [orjson.loads(row)["question"] for row in (sample_dir / "reviews.jsonl").read_bytes().splitlines()]
    every = [orjson.loads(row)["question"] for row in (sample_dir / "questions.jsonl").read_bytes().splitlines()]
    known = set(reviewed)
    return [*reviewed, *(question for question in every if question not in known)][:count]


def start_system(stack: Stack, plan: Plan) -> None:
    """Prefect with every deployment, the index, llama.cpp with the base model, the gateway that asks it."""
    stack.start_prefect()
    stack.run_deployment("index/local", {"run_id": plan.run_id})
    model = stack.start_llamacpp_base()
    switch(stack.gateway, Backend("lmstudio", stack.llamacpp_url, model))
    stack.start_gateway()


def ask_questions(stack: Stack, plan: Plan, clock: StageClock) -> dict[str, Any]:
    """All sample questions; a status other than 200 ends the demo, since nothing may be lost here."""
    progress = Progress(stack.lake.run_dir / "progress.jsonl", "questions", len(plan.questions))
    counts = asyncio.run(ask(stack.gateway_url, plan.questions, plan.users, progress))
    clock.say(f"  {counts}")
    if set(counts["statuses"]) != {"200"}:
        raise SetupError(
            f"Not every question was answered: {counts['statuses']}; see {stack.lake.run_dir}/gateway.log."
        )
    return counts


def to_vllm(stack: Stack, plan: Plan, clock: StageClock) -> dict[str, Any]:
    """The promoted adapter, already loaded and probed by the promote flow, gets the traffic."""
    promoted = read_json(stack.run_folder(plan.run_id) / "promote.json")["report"]
    backend = Backend("vllm", stack.vllm_url, promoted["served_name"], adapter=promoted["adapter"])
    counts = move_under_load(stack.gateway, "vllm", backend, plan.questions, plan.users, plan.load_seconds)
    clock.say(f"  {counts}")
    return counts


def to_lmstudio(stack: Stack, plan: Plan, clock: StageClock) -> dict[str, Any]:
    """llama.cpp loads the merged GGUF, gets the traffic, and is judged on the held-out questions."""
    exported = read_json(stack.run_folder(plan.run_id) / "export.json")["report"]
    adapter = exported["adapter"]
    stack.start_llamacpp("llamacpp-tuned", Path(exported["path"]), adapter, stack.ports.llamacpp_tuned)
    backend = Backend("lmstudio", stack.llamacpp_tuned_url, adapter, adapter=adapter)
    counts = move_under_load(stack.gateway, "lmstudio", backend, plan.questions, plan.users, plan.load_seconds)
    clock.say(f"  {counts}")
    if not plan.keep_vllm:
        stack.stop("vllm")  # nothing else may run beside an evaluation
    wanted = {"adapter": adapter, "backend": "lmstudio", "limit": plan.limit or None, "run_id": plan.run_id}
    stack.run_deployment("evaluate/local", wanted)
    return counts


def turn_once(stack: Stack, plan: Plan, clock: StageClock) -> dict[str, Any]:
    """All stages in order; returns the traffic counts for the report."""
    traffic: dict[str, Any] = {}
    with clock.stage("start", "Prefect server and worker, FAISS index, llama.cpp with the base model, gateway"):
        start_system(stack, plan)
    with clock.stage("ask", f"{len(plan.questions)} questions to POST /api/v1/search, answered by the base model"):
        traffic["questions"] = ask_questions(stack, plan, clock)
    with clock.stage("reviews", f"golden answers from {plan.reviews}"):
        stack.run_deployment("reviews/local", {"file": str(plan.reviews), "run_id": plan.run_id})
    with clock.stage("cycle", "ingest → build → synthesize → finetune → evaluate → promote → export"):
        stack.run_deployment(
            "cycle/local",
            {
                "train_config": str(plan.train_config),
                "synth_tools": plan.synth_tools,
                "limit": plan.limit or None,
                "run_id": plan.run_id,
            },
        )
    if not (stack.run_folder(plan.run_id) / "promote.json").exists():
        clock.say("  the gate refused the candidate: the base model stays in service, nothing to move to")
        return traffic
    with clock.stage("vllm", "the gateway moves to vLLM with the new adapter, under load"):
        traffic["to_vllm"] = to_vllm(stack, plan, clock)
    with clock.stage("lmstudio", "the gateway moves to llama.cpp with the merged GGUF; held-out questions there"):
        traffic["to_lmstudio"] = to_lmstudio(stack, plan, clock)
    return traffic


@contextmanager
def interrupted_once() -> Iterator[None]:
    """The first Ctrl-C, SIGTERM or SIGHUP raises KeyboardInterrupt; later ones can't cut the cleaning up short."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(_signal: int, _frame: object) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    old = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def run_demo(stack: Stack, plan: Plan, clock: StageClock) -> Path:
    """Turn once, stop everything, write the page; returns its path. What was started is stopped in any case."""
    running = [entry.record.name for entry in processes.status(stack.lake.run_dir) if entry.alive]
    if running:
        raise SetupError(f"Mulle is running already ({', '.join(running)}): `make down` first.")
    folder = stack.run_folder(plan.run_id)
    page = stack.lake.reports_dir / f"{plan.run_id}.html"
    traffic: dict[str, Any] = {}
    with interrupted_once():
        try:
            traffic = turn_once(stack, plan, clock)
        finally:
            clock.say("stopping everything that was started ...")
            clock.say("stopped: " + (", ".join(stack.stop_all()) or "nothing ran"))
            record = {
                "run_id": plan.run_id,
                "seconds": clock.seconds,
                "traffic": traffic,
                "peak_memory_bytes": clock.peak_bytes,
            }
            write_json_atomic(folder / "demo.json", record)
            facts = run_environment(stack.serving.vllm_python, Path.cwd())
            build_report(folder, page, environment=facts)  # a failed turn gets a page too, which says where it ended
    clock.say("\n" + summary_table(folder))
    return page


def main(
    questions: Annotated[int, typer.Option(help="Sample questions to ask.")] = 220,
    limit: Annotated[int, typer.Option(help="Held-out questions on each backend; 0: all.")] = 60,
    synth_tools: Annotated[int, typer.Option(help="Tools to make synthetic questions for; 0: none.")] = 6,
    train_config: Annotated[Path, typer.Option(help="Training hyperparameters.")] = Path("configs/demo.toml"),
) -> None:
    """Turn the wheel once and print what it brought."""
    lake = LakeSettings()
    # Bounded answers keep the untuned model, which seldom stops by itself, from eating the time.
    environ = {"MULLE_MAX_TOKENS": "64", **os.environ}
    sample = Path("data/sample")
    clock = StageClock(ESTIMATES, lake.run_dir)
    stack = Stack(lake, ServingSettings(llamacpp_slots=4), Ports.free(), environ, clock.say)
    plan = Plan(
        new_run_id(), sample_questions(sample, questions), sample / "reviews.jsonl", limit, synth_tools, train_config
    )
    clock.say(f"run {plan.run_id}; logs in {lake.run_dir}")
    try:
        page = run_demo(stack, plan, clock)
    except KeyboardInterrupt:
        clock.say("interrupted; everything that was started has been stopped")
        sys.exit(130)
    except MulleError as error:
        clock.say(f"{error.code}: {error}")
        sys.exit(error.exit_code)
    total = clock_text(sum(clock.seconds.values()))
    clock.say(f"\ntotal {total}, peak memory {clock.peak_bytes / 2**30:.1f} GiB; report: {page.resolve()}")


if __name__ == "__main__":
    typer.run(main)
