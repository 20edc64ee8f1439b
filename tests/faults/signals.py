"""Promise 7: SIGHUP, a switch of the backend and SIGTERM under load drop nothing and leave nothing unlogged.

Two workers, users with JSON answers and streams. At random times the env file is replaced by one for another model,
SIGHUP comes with or without a change, then SIGTERM. Every request that was journalled has both halves and its whole
answer reached its user; an answer is labelled with the model that gave it; the exit code is 0; what comes after
SIGTERM is refused a connection or told 503.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from serving.envfile import write_env_file
from tests.faults.clients import Reply, Users
from tests.faults.gateways import Journalled, journalled, make_index, running_gateway
from tests.faults.harness import Progress, Tally, cycles_of, quiet
from tests.faults.stub_model import StubModel, run_model

NAME, PROMISE, UNIT, FULL = "signals", "7", "ends under load", 60
USERS = 8


def run(
    cycles: int, seed: int, scratch: Path, progress: Progress = quiet, ending: signal.Signals = signal.SIGTERM,
    stream_share: float = 0.5,
) -> Tally:  # fmt: skip
    """`ending` SIGKILL is the planted bug: an end that waits for nobody."""
    tally = Tally()
    index = make_index()
    with run_model("model-a", 0.1, 0.01) as first, run_model("model-b", 0.1, 0.01) as second:
        for cycle_seed, rng in cycles_of(cycles, seed, tally, progress):
            folder = scratch / f"{cycle_seed}"
            replies = _cycle(folder, index, (first, second), cycle_seed, rng, tally, ending, stream_share)
            _check(replies, journalled(folder / "journal"), cycle_seed, tally)
    return tally


def _cycle(
    folder: Path, index: Path, models: tuple[StubModel, StubModel], seed: int, rng: random.Random, tally: Tally,
    ending: signal.Signals, stream_share: float,
) -> list[Reply]:  # fmt: skip
    env_file = folder / "gateway.env"
    folder.mkdir()
    generation = 1
    write_env_file(env_file, {**models[0].env(), "LLM_GENERATION": f"{generation}"})
    env = {"MULLE_WORKERS": "2", "MULLE_ENV_FILE": str(env_file), "MULLE_LOG_LEVEL": "warning"}
    with running_gateway(folder, index, env) as gateway:
        with Users(gateway.url, USERS, seed, stream_share) as users:
            for _ in range(rng.randint(1, 4)):
                time.sleep(rng.uniform(0.05, 0.5))
                if rng.random() < 0.6:
                    generation += 1
                    write_env_file(env_file, {**rng.choice(models).env(), "LLM_GENERATION": f"{generation}"})
                    tally.counts["switches"] += 1
                gateway.process.send_signal(signal.SIGHUP)
                tally.counts["hangups"] += 1
            time.sleep(rng.uniform(0.0, 0.5))
            gateway.process.send_signal(ending)
            code = gateway.process.wait(60)
            users.stop()
        tally.check(code == 0, seed, f"exit code {code}")
        tally.check(not users.hung, seed, f"{users.hung} requests hung")
        tally.counts["ends"] += 1
        tally.counts["replies"] += len(users.replies)
        tally.counts["refused connections"] += users.unanswered
    return users.replies


def _check(replies: list[Reply], found: Journalled, seed: int, tally: Tally) -> None:
    answered: set[str] = set()
    for reply in replies:
        if reply.status == 503:
            tally.counts["told 503"] += 1
            continue
        tally.check(reply.status == 200, seed, f"answered {reply.status}: {reply.body[:200]!r}")
        tally.check(reply.ended, seed, f"{reply.request_id} broke off in the middle")
        if reply.ended and reply.status == 200:
            answered.add(reply.request_id)
            served = reply.served_by
            row = found.responses.get(reply.request_id, {})
            tally.check(
                served == row.get("model"), seed, f"{reply.request_id}: by {served}, journal {row.get('model')}"
            )
    lost = found.requests.keys() - answered
    tally.check(not lost, seed, f"{len(lost)} accepted requests got no whole answer, e.g. {sorted(lost)[:3]}")
    tally.check(not found.unanswered, seed, f"{len(found.unanswered)} requests have no response half")
    tally.check(answered <= found.requests.keys(), seed, f"{len(answered - found.requests.keys())} answers unlogged")
    tally.check(not found.damage and not found.doubled, seed, f"{found.damage} damaged ranges, {found.doubled} doubled")
