"""`LLM_MODEL_NAME=champion`: the model that a server offers for the adapter that the registry has in service. Pure.

vLLM: the adapter under a name of its own for each load (`mulle-<adapter id>-<ulid>`, serving/adapters.py), or any name
whose folder is the adapter's; of several loads the newest. LM Studio, llama.cpp, Ollama: the identifier is the
adapter's id. Invariant: a model is used only where the server lists it; llama.cpp answers to any name, with whatever
it has.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

from lake.errors import SetupError
from serving.answers import ModelCard
from serving.backends import CHAMPION, Backend

_LOADED_NAME = re.compile(r"mulle-(?P<adapter>[0-9a-f]+)-(?P<ulid>[0-9a-z]{26})")


def served_name(served: list[ModelCard], adapter_id: str) -> str | None:
    """The name under which a server that lists `served` offers the adapter; None where it does not."""
    loads: list[tuple[str, str]] = []
    others: list[str] = []
    for card in served:
        match = _LOADED_NAME.fullmatch(card.id)
        if match and match["adapter"] == adapter_id:
            loads.append((match["ulid"], card.id))
        elif card.id in (adapter_id, f"{adapter_id}:latest") or _is_folder_of(card, adapter_id):
            others.append(card.id)
    if loads:
        return max(loads)[1]
    return adapter_id if adapter_id in others else next(iter(others), None)


def _is_folder_of(card: ModelCard, adapter_id: str) -> bool:
    return bool(card.parent and card.root and PurePosixPath(card.root).name == adapter_id)


def follow(backend: Backend, served: list[ModelCard], adapter_id: str) -> Backend:
    """`backend`, which follows the champion, with the model that is meant now. Raises `SetupError` with the reason."""
    if not adapter_id:
        raise SetupError(
            "There is no champion yet (models/finetuned_adapter): promote an adapter, or name a model "
            "in LLM_MODEL_NAME."
        )
    name = served_name(served, adapter_id)
    if name is None:
        listed = ", ".join(card.id for card in served[:10]) or "nothing"
        raise SetupError(
            f"{backend.api_base} does not have the champion {adapter_id} (it lists {listed}): "
            f"{backend.how_to_load(adapter_id)}.",
            adapter_id=adapter_id,
        )
    return replace(backend, model=name, adapter=adapter_id, follows_champion=True)


def is_unresolved(backend: Backend) -> bool:
    """Whether `backend` follows the champion and no model was found for it yet."""
    return backend.follows_champion and backend.model == CHAMPION
