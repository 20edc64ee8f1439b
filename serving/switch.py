"""Moves the running gateway to another LLM server: python -m serving.switch --to vllm|lmstudio|...

Reads `data/run/backends/targets.json`, writes the gateway's env file (`MULLE_ENV_FILE`, default
`data/run/gateway.env`). In order: ask the new server for its models and for a real one-token completion;
replace the file with a new generation; wait until every living worker has acknowledged it. Invariant:
whenever this ends, either all workers use the new backend, or the old file is back (under a newer generation)
and the reason was said.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from lake.errors import BackendError, SetupError, SwitchError
from lake.settings import LakeSettings
from serving.acks import Ack, live_acks
from serving.backends import CHAMPION, PROFILES, Backend, backend_to_env, check_resolved
from serving.cli import exit_code
from serving.client import LLMClient
from serving.envfile import parse_env, write_env_file
from serving.targets import champion_id, choose_model, target_backend

_REPLACED = ("LLM_", "OPENAI_")
_KEPT = "LLM_FALLBACK_"  # the second backend stays what it is
_POLL_S = 0.05


class SwitchSettings(BaseSettings):
    """Environment MULLE_* of the switch command."""

    model_config = SettingsConfigDict(env_prefix="MULLE_", frozen=True, extra="ignore")

    env_file: Path | None = Field(default=None, description="Env file of the gateway; unset: data/run/gateway.env.")
    switch_timeout_s: float = Field(
        default=30.0, gt=0, description="Longest wait for all workers of the gateway, seconds."
    )
    switch_api_key: SecretStr = Field(
        default=SecretStr(""), description="Key of the backend to switch to; empty: as stored."
    )


@dataclass(frozen=True)
class SwitchReport:
    """How a switch went. `workers` acknowledged; 0 where no gateway follows the file now."""

    backend: Backend
    workers: int
    seconds: float


async def probe_backend(wanted: Backend, champion: str = "") -> Backend:
    """`wanted` with its model settled, after a real completion. Raises `BackendError` or `SetupError`."""
    check_resolved(wanted)
    client = LLMClient(wanted)
    try:
        try:
            served = await client.list_models()
        except BackendError:
            if wanted.model in ("", CHAMPION):
                raise
            served = []  # some servers list nothing; the completion below decides
        chosen = choose_model(wanted, served, champion)
    finally:
        await client.aclose()
    any_name = PROFILES[chosen.profile].any_name
    if any_name and served and chosen.model not in (card.id for card in served):
        _not_there(chosen, ", ".join(card.id for card in served[:10]))
    client = LLMClient(chosen)
    try:
        answer = await client.probe()
    finally:
        await client.aclose()
    # With a single model loaded LM Studio uses it for every name, and tells by the answer only.
    if any_name and answer.model and answer.model.split(":")[0] != chosen.model.split(":")[0]:
        _not_there(chosen, answer.model)
    return chosen


def _not_there(chosen: Backend, has: str) -> NoReturn:
    raise SetupError(
        f"{chosen.api_base} does not have the model {chosen.model} (it has {has}) and would answer with another: "
        f"{chosen.how_to_load(chosen.model)}, or name one that it has."
    )


async def switch_backend(
    wanted: Backend, env_file: Path, ack_dir: Path, *, timeout_s: float = 30.0, champion: str = ""
) -> SwitchReport:
    """Probe, write, wait. Raises `SwitchError` (old backend in service again), `BackendError` or `SetupError`
    (nothing was changed). Safe to repeat; one switch at a time.
    """
    start = time.monotonic()
    with _alone(env_file):
        chosen = await probe_backend(wanted, champion)
        before = env_file.read_text(encoding="utf-8") if env_file.exists() else None
        old = parse_env(before, str(env_file)) if before is not None else {}
        known = [ack.generation for ack in live_acks(ack_dir)]
        generation = max(_generation(old), 0, *known) + 1
        new = replace(chosen, generation=generation)
        kept = {key: value for key, value in old.items() if key.startswith(_KEPT) or not key.startswith(_REPLACED)}
        write_env_file(env_file, {**kept, **backend_to_env(new)})
        reason = "it was interrupted"
        try:
            reason, workers = await _wait(ack_dir, generation, timeout_s)
            if not reason:
                return SwitchReport(new, workers, time.monotonic() - start)
        finally:
            if reason:
                _put_back(env_file, old if before is not None else None, generation + 1)
        if before is None:
            raise SwitchError(f"Not switched: {reason}. There was no env file before, and there is none now.")
        back, _ = await _wait(ack_dir, generation + 1, timeout_s)
        state = "the old backend is in service" if not back else f"the old file is back, but {back}"
        raise SwitchError(f"Not switched: {reason}; {state}.")


def _put_back(env_file: Path, old: dict[str, str] | None, generation: int) -> None:
    if old is None:
        env_file.unlink(missing_ok=True)
    else:
        write_env_file(env_file, {**old, "LLM_GENERATION": str(generation)})


def _generation(values: dict[str, str]) -> int:
    text = values.get("LLM_GENERATION", "0")
    return int(text) if text.isascii() and text.isdigit() else 0


async def _wait(ack_dir: Path, generation: int, timeout_s: float) -> tuple[str, int]:
    """("", number of workers) once all have it; (reason, 0) where one refuses or the time is over."""
    end = time.monotonic() + timeout_s
    while True:
        acks = live_acks(ack_dir)
        late = [ack for ack in acks if ack.generation < generation]
        refused = next((ack for ack in acks if ack.generation >= generation and not ack.ok), None)
        if refused is not None:
            return f"worker {refused.worker} refused it: {refused.reason}", 0
        if not late:
            return "", len(acks)
        if time.monotonic() > end:
            return f"{_names(late)} did not acknowledge within {timeout_s:.0f} s", 0
        await asyncio.sleep(_POLL_S)


def _names(acks: list[Ack]) -> str:
    return "worker " + ", ".join(ack.worker for ack in acks)


@contextmanager
def _alone(env_file: Path) -> Iterator[None]:
    env_file.parent.mkdir(parents=True, exist_ok=True)
    with env_file.with_name(f".{env_file.name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetupError("Another switch is under way: wait for it to end, then try again.") from error
        yield


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serving.switch", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--to", required=True, help="vllm, lmstudio, llamacpp, ollama, openai, or a stored target")
    parser.add_argument("--api-base", default="", help="address with /v1; default: the stored or the usual one")
    parser.add_argument("--model", default="", help="model name, or `champion`")
    parser.add_argument("--env-file", type=Path, default=None, help="default: MULLE_ENV_FILE")
    return parser


def _run(argv: Sequence[str] | None) -> int:
    args = make_parser().parse_args(argv)
    lake, settings = LakeSettings(), SwitchSettings()
    env_file = args.env_file or settings.env_file or lake.run_dir / "gateway.env"
    key = settings.switch_api_key.get_secret_value()
    wanted = target_backend(lake.run_dir, args.to, api_base=args.api_base, model=args.model, api_key=key)
    champion = champion_id(lake.models_dir)
    done = asyncio.run(
        switch_backend(wanted, env_file, lake.run_dir / "ack", timeout_s=settings.switch_timeout_s, champion=champion)
    )
    to = done.backend
    if done.workers:
        follow = f"{done.workers} worker(s) acknowledged in {done.seconds:.1f} s"
    else:
        follow = f"no running gateway follows {env_file}: it counts from the next start with MULLE_ENV_FILE set"
    model = f"model {to.model}" + (" (follows the champion)" if to.follows_champion else "")
    print(f"switched to {to.profile} {to.api_base}, {model}, generation {to.generation}; {follow}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code; errors are one line on stderr."""
    return exit_code(lambda: _run(argv if argv is not None else sys.argv[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
