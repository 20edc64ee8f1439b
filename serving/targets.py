"""Where the backends that run here can be found: `data/run/backends/targets.json`, written by whoever starts
them.

Reads and writes that one file (mode 0600, it may hold keys). Invariant: a target is a checked `Backend`; the
model that a switch asks for is named by the caller, by the target, by the champion, or is the only one
served.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import orjson

from lake.errors import SetupError
from lake.files import read_json, write_json_atomic
from serving.answers import ModelCard
from serving.backends import CHAMPION, PROFILES, Backend, check_api_base
from serving.champion import follow, served_name

FILE_NAME = "backends/targets.json"


def load_targets(run_dir: Path) -> dict[str, dict[str, str]]:
    """{name: {"profile", "api_base", "model", "api_key", "adapter"}}; empty where there is no file."""
    try:
        stored = read_json(run_dir / FILE_NAME)
        return {str(name): {str(key): str(value) for key, value in entry.items()} for name, entry in stored.items()}
    except FileNotFoundError:
        return {}
    except (orjson.JSONDecodeError, AttributeError) as error:
        raise SetupError(
            f"{run_dir / FILE_NAME} can't be read ({error}): remove it, start the servers again."
        ) from error


def save_target(run_dir: Path, name: str, backend: Backend) -> None:
    """Remember `backend` under `name` (vllm, lmstudio, ...), so that `--to name` finds it."""
    stored = load_targets(run_dir)
    stored[name] = {
        "profile": backend.profile,
        "api_base": backend.api_base,
        "model": backend.model,
        "api_key": backend.api_key,
        "adapter": backend.adapter,
    }
    path = run_dir / FILE_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    write_json_atomic(path, stored)
    path.chmod(0o600)


def target_backend(run_dir: Path, name: str, *, api_base: str = "", model: str = "", api_key: str = "") -> Backend:
    """The backend for `--to name`; what the caller gives wins over the file, the file over the profile's
    default.

    The model may still be empty: `choose_model` decides once the server was asked.
    """
    entry = load_targets(run_dir).get(name, {})
    profile = entry.get("profile", name)
    if profile not in PROFILES:
        raise SetupError(f"There is no backend {name!r}: choose one of {', '.join(PROFILES)}.")
    same_server = not api_base or api_base == entry.get("api_base")
    return Backend(
        profile=profile,
        api_base=check_api_base(api_base or entry.get("api_base") or PROFILES[profile].api_base),
        model=model or (entry.get("model", "") if same_server else ""),
        api_key=api_key or (entry.get("api_key", "") if same_server else ""),
        adapter=entry.get("adapter", "") if same_server and not model else "",
    )


def champion_id(models_dir: Path) -> str:
    """Id of the adapter in service: the folder that `models/finetuned_adapter` points to; empty where there
    is none.
    """
    link = models_dir / "finetuned_adapter"
    return link.resolve().name if link.exists() else ""


def choose_model(backend: Backend, served: list[ModelCard], champion: str) -> Backend:
    """`backend` with its model and adapter settled; without a model it follows the champion where it is served.

    Raises `SetupError` where nothing decides which model is meant, or the champion is meant and not there.
    """
    names = [card.id for card in served]
    if backend.follows_champion or backend.model == CHAMPION:
        return follow(backend, served, champion)
    if not backend.model and champion and served_name(served, champion):
        return follow(backend, served, champion)
    model = backend.model
    if not model and len(names) == 1:
        model = names[0]
    if not model:
        listed = ", ".join(names) or "none"
        raise SetupError(f"{backend.api_base} serves several models or none ({listed}): name one with --model.")
    adapter = backend.adapter
    if not adapter and (model == champion or any(card.id == model and card.parent for card in served)):
        adapter = model
    return replace(backend, model=model, adapter=adapter)
