"""What the configuration says about LLM servers now: read, checked, and the champion looked up.

Reads the env file (which alone supplies LLM_* where there is one) or a fixed mapping, and the registry's pointer
`models/finetuned_adapter` where a model name is `champion`; asks the servers which models they list. Writes nothing.
Invariant: what `load` returns as primary may be put into service; why something is missing is said in one line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lake.errors import MulleError, SetupError
from lake.registry import Registry, replay
from serving.answers import ModelCard
from serving.backends import Backend, backend_from_env, check_resolved, detect_profile, fallback_from_env
from serving.champion import follow, is_unresolved
from serving.client import LLMClient
from serving.envfile import read_env_file
from serving.targets import champion_id

_LIST_S = 3.0  # longest wait for a list of models
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Configured:
    """One reading. `primary` None: `problem` says why; `fallback_problem` says why a configured fallback is missing.

    `lasting` is true where only another configuration can help; else it is worth trying again.
    """

    primary: Backend | None
    fallback: Backend | None
    generation: int
    problem: str = ""
    fallback_problem: str = ""
    lasting: bool = False


class BackendSource:
    """For one event loop. `env_file` None: `values` are fixed."""

    def __init__(
        self,
        make_client: Callable[[Backend], LLMClient],
        env_file: Path | None,
        values: Mapping[str, str],
        models_dir: Path,
    ) -> None:
        self._make_client = make_client
        self._env_file = env_file
        self._values = dict(values)
        self._models_dir = models_dir
        self._profiles: dict[str, str] = {}  # address: what it was found to be
        self._seen: tuple[_Stamp | None, str] = (None, "")
        self.follows_champion = False

    def changed(self) -> bool:
        """Whether file or champion differ from what `load` saw last. Costs a few system calls."""
        champion = champion_id(self._models_dir) if self.follows_champion else self._seen[1]
        return (_stamp(self._env_file), champion) != self._seen

    def quarantined(self, adapter_id: str) -> bool:
        """Whether the registry forbids to serve this adapter. Blocks for a read of its log."""
        try:
            return replay(Registry(self._models_dir).log.read()).states.get(adapter_id) == "quarantined"
        except (MulleError, OSError):
            return False  # a registry that can't be read forbids nothing; `python -m serving.registry list` says why

    async def load(self) -> Configured:
        """Read and check everything. Does not raise for whatever file or servers say."""
        stamp = _stamp(self._env_file)
        self._seen = (stamp, self._seen[1])
        values: Mapping[str, str] = self._values
        try:
            if self._env_file is not None:
                values = await asyncio.to_thread(read_env_file, self._env_file)
            primary = backend_from_env(values)
            fallback = fallback_from_env(values)
        except SetupError as error:
            return Configured(None, None, _claimed_generation(values), str(error), lasting=True)
        self.follows_champion = primary.follows_champion or bool(fallback and fallback.follows_champion)
        champion = champion_id(self._models_dir) if self.follows_champion else ""
        self._seen = (stamp, champion)
        (ready, problem), (second, second_problem) = await asyncio.gather(
            self._settle(primary, bool(values.get("LLM_PROFILE", "").strip()), champion),
            self._settle(fallback, bool(values.get("LLM_FALLBACK_PROFILE", "").strip()), champion),
        )
        return Configured(ready, second, primary.generation, problem, second_problem)

    async def _settle(self, backend: Backend | None, profile_given: bool, champion: str) -> tuple[Backend | None, str]:
        """(backend with its profile and model, "") or (None, why not)."""
        if backend is None:
            return None, ""
        try:
            await asyncio.to_thread(check_resolved, backend)
            if not profile_given:
                backend = replace(backend, profile=await self._profile(backend))
            if is_unresolved(backend):
                served = await self._served(backend) if champion else []
                backend = follow(backend, served, champion)
        except MulleError as error:
            return None, str(error)
        return backend, ""

    async def _profile(self, backend: Backend) -> str:
        """What the server shows itself to be; else what its address suggests."""
        found = self._profiles.get(backend.api_base) or await detect_profile(backend.api_base, api_key=backend.api_key)
        if found is None:
            return backend.profile
        self._profiles[backend.api_base] = found
        return found

    async def _served(self, backend: Backend) -> list[ModelCard]:
        client = self._make_client(backend)
        try:
            return await client.list_models(_LIST_S)
        finally:
            await client.aclose()


def _stamp(path: Path | None) -> _Stamp | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _claimed_generation(values: Mapping[str, str]) -> int:
    """The generation that a refused file names, so that the switch learns of the refusal at once."""
    text = values.get("LLM_GENERATION", "0")
    return int(text) if text.isascii() and text.isdigit() else 0
