"""How many of our own trainings lie between an answer and people's words: its generation. Pure.

0: a person, another company's or a stronger model wrote it. 1: the base that we serve. An adapter that was trained
on a dataset of depth d answers in depth d + 1, and at least 1. Training on one's own output again and again narrows
a model (Shumailov and others 2024), so a dataset's rows carry this number and are capped by it (`caps.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

LOCAL_BACKENDS = frozenset({"vllm", "lmstudio", "llamacpp", "ollama"})  # what they answer is our own output
_HEX = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Lineage:
    """`base_models`: names under which the base is served; `adapters`: id to the depth of its answers."""

    base_models: frozenset[str] = frozenset()
    adapters: Mapping[str, int] = field(default_factory=dict[str, int])

    def depth(self, model: str | None, adapter: str | None = None, backend: str | None = None) -> int:
        """The generation of an answer. An adapter of ours that is not known counts like the deepest one that is."""
        for name in (adapter, model):
            for found in _HEX.findall(name or ""):
                if found in self.adapters:  # served as mulle-<id>-<ulid>, <id>:latest, <id>
                    return self.adapters[found]
        if adapter:
            return max(self.adapters.values(), default=1)
        if model in self.base_models or backend in LOCAL_BACKENDS or not (model or backend):
            return 1
        return 0


def trained_depth(depth_of_dataset: int) -> int:
    """The depth of the answers of an adapter that was trained on rows of at most this depth."""
    return depth_of_dataset + 1
