"""The adapters and their states: content-addressed folders and an append-only log of what happened to them.

Reads and writes `models/adapters/<id>/`, `models/registry/log.jsonl`; writes `models/registry/aliases.json`
and `models/finetuned_adapter`, which are projections of the log and can be rebuilt from it at any time.
Invariant: only an adapter with a passed gate record becomes champion; of two promotions at once, one wins and
the other is refused.
"""

from __future__ import annotations

import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lake.adapter_files import ALLOWED, ID_LENGTH, adapter_id, check_files, read_manifest
from lake.errors import AdapterError, GateError
from lake.files import canonical_json, fsync_dir, sha256_bytes, sha256_file, swap_symlink, write_json_atomic
from lake.registry_log import Event, RegistryLog

State = Literal["candidate", "champion", "retired", "quarantined"]
_ID = re.compile(rf"[0-9a-f]{{{ID_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class AdapterEntry:
    """One adapter as the registry knows it; `added` is UTC."""

    adapter_id: str
    state: State
    path: Path
    base_model: str
    base_sha256: str
    template_sha256: str
    dataset_version: str
    rank: int
    added: str


@dataclass(slots=True)
class _View:
    """The log, replayed: states, the line of champions (last one serves) and when each was added."""

    states: dict[str, State]
    champions: list[str]
    added: dict[str, Event]

    @property
    def champion(self) -> str | None:
        return self.champions[-1] if self.champions else None


def replay(events: list[Event]) -> _View:
    """States after all events. Pure."""
    view = _View({}, [], {})
    for event in events:
        one = event.adapter_id
        if event.kind == "add":
            view.states[one] = "candidate"
            view.added[one] = event
        elif event.kind == "promote":
            if view.champion is not None:
                view.states[view.champion] = "retired"
            view.champions.append(one)
            view.states[one] = "champion"
        elif event.kind in ("rollback", "quarantine", "retire"):
            was_champion = view.champion == one
            view.states[one] = "quarantined" if event.kind == "quarantine" else "retired"
            # an adapter that was taken back or quarantined is no goal of a later rollback
            view.champions = [other for other in view.champions if other != one]
            if was_champion and view.champion is not None:
                view.states[view.champion] = "champion"
    return view


class Registry:
    """All methods may be called from several processes at once; each change is durable on return."""

    def __init__(self, models_dir: Path) -> None:
        self.adapters_dir = models_dir / "adapters"
        self.link = models_dir / "finetuned_adapter"
        self.aliases_file = models_dir / "registry" / "aliases.json"
        self.log = RegistryLog(models_dir / "registry" / "log.jsonl")

    def add(self, adapter_dir: Path, actor: str = "train", move: bool = False) -> AdapterEntry:
        """Take an adapter in as candidate (copied, or moved). The same content again changes nothing."""
        manifest = check_files(adapter_dir)
        one = adapter_id(adapter_dir)
        target = self.adapters_dir / one
        with self.log.locked():
            if adapter_dir.resolve() != target.resolve():
                self._place(adapter_dir, target, move)
            view = replay(self.log.read())
            if one not in view.states:
                evidence = {
                    "manifest_sha256": sha256_file(target / "manifest.json"),
                    "base_sha256": manifest.get("base_sha256"),
                    "dataset": manifest.get("dataset"),
                }
                self.log.append("add", one, actor, "trained", evidence)
        return self.get(one)

    def list(self) -> list[AdapterEntry]:
        """Every adapter ever added, oldest first."""
        view = replay(self.log.read())
        return [self._entry(view, one) for one in view.added]

    def get(self, one: str) -> AdapterEntry:
        """Raises `AdapterError` where the id is unknown."""
        view = replay(self.log.read())
        self._require(view, one)
        return self._entry(view, one)

    def champion(self) -> AdapterEntry | None:
        """The adapter in service; None: the base serves alone."""
        view = replay(self.log.read())
        return self._entry(view, view.champion) if view.champion else None

    def history(self, one: str | None = None) -> list[Event]:
        """What happened, oldest first; of one adapter, or of all."""
        return [event for event in self.log.read() if one is None or event.adapter_id == one]

    def promote(self, one: str, gate_record: dict[str, Any], actor: str) -> AdapterEntry:
        """Make a candidate the champion.

        Raises `GateError` where the record is not a passed one for this adapter against today's champion
        (another promotion won), `AdapterError` where the files do not verify (the adapter is then
        quarantined).
        """
        with self.log.locked():
            view = replay(self.log.read())
            self._require(view, one)
            _check_record(one, gate_record, view.champion)
            if view.champion == one:
                return self._entry(view, one)
            if view.states[one] == "quarantined":
                raise GateError(f"Adapter {one} is quarantined: it can't be promoted.")
            try:
                self._verify(view, one)
            except AdapterError as error:
                self.log.append("quarantine", one, actor, f"failed verification: {error}", {})
                self._project()
                raise
            evidence = {"gate": gate_record, "gate_sha256": sha256_bytes(canonical_json(gate_record))}
            self.log.append("promote", one, actor, "gate passed", evidence)
            self._project()
        return self.get(one)

    def rollback(self, actor: str, reason: str = "rolled back") -> AdapterEntry | None:
        """Bring back the champion before this one; None: there was none, the base serves alone."""
        with self.log.locked():
            view = replay(self.log.read())
            if view.champion is None:
                raise AdapterError("There is no champion to roll back from.")
            if len(view.champions) > 1:
                self._verify(view, view.champions[-2])  # never fall back on something damaged
            self.log.append("rollback", view.champion, actor, reason, {})
            self._project()
        return self.champion()

    def retire(self, one: str, actor: str, reason: str = "retired") -> AdapterEntry:
        """Take a candidate out of the choice. The champion must be rolled back or replaced first."""
        with self.log.locked():
            view = replay(self.log.read())
            self._require(view, one)
            if view.champion == one:
                raise AdapterError(f"{one} is the champion: promote another or roll back first.")
            if view.states[one] == "quarantined":
                raise AdapterError(f"{one} is quarantined and stays so.")
            self.log.append("retire", one, actor, reason, {})
            self._project()
        return self.get(one)

    def quarantine(self, one: str, actor: str, reason: str) -> AdapterEntry:
        """Never serve this adapter again; a champion falls back on the one before it."""
        with self.log.locked():
            self._require(replay(self.log.read()), one)
            self.log.append("quarantine", one, actor, reason, {})
            self._project()
        return self.get(one)

    def verify(self, one: str) -> AdapterEntry:
        """Hash everything again. Raises `AdapterError` naming the first file that differs."""
        view = replay(self.log.read())
        self._require(view, one)
        self._verify(view, one)
        return self._entry(view, one)

    def rebuild(self) -> dict[str, Any]:
        """Write aliases and the link anew from the log (after a crash between log and projection). Safe to
        repeat.
        """
        with self.log.locked():
            return self._project()

    def _verify(self, view: _View, one: str) -> None:
        folder = self.adapters_dir / one
        check_files(folder)
        if adapter_id(folder) != one:
            raise AdapterError(f"{folder} holds another adapter than its name says: do not serve it.")
        if sha256_file(folder / "manifest.json") != view.added[one].evidence.get("manifest_sha256"):
            raise AdapterError(f"{folder / 'manifest.json'} is not the one that was registered.")

    def _project(self) -> dict[str, Any]:
        view = replay(self.log.read())
        aliases = {
            "champion": view.champion,
            "previous": view.champions[-2] if len(view.champions) > 1 else None,
        }
        write_json_atomic(self.aliases_file, aliases)
        if view.champion is not None:
            swap_symlink(self.link, self.adapters_dir / view.champion)
        elif self.link.is_symlink():
            self.link.unlink()
            fsync_dir(self.link.parent)
        return aliases

    def _place(self, source: Path, target: Path, move: bool) -> None:
        """Copy or move into `adapters/<id>` in one step; what is there already has the same address."""
        self.adapters_dir.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if adapter_id(target) != target.name:
                raise AdapterError(f"{target} is damaged: move it away, then add the adapter again.")
        elif move:
            source.rename(target)
        else:
            temporary = self.adapters_dir / f".{target.name}.{secrets.token_hex(4)}.tmp"
            temporary.mkdir()
            try:
                for name in sorted(ALLOWED):
                    if (source / name).exists():
                        shutil.copyfile(source / name, temporary / name)
                temporary.rename(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        fsync_dir(self.adapters_dir)

    def _require(self, view: _View, one: str) -> None:
        if not _ID.fullmatch(one) or one not in view.states:
            raise AdapterError(f"No adapter {one!r} in the registry: see `python -m serving.registry list`.")

    def _entry(self, view: _View, one: str) -> AdapterEntry:
        folder = self.adapters_dir / one
        manifest = read_manifest(folder)
        return AdapterEntry(
            adapter_id=one,
            state=view.states[one],
            path=folder,
            base_model=str(manifest.get("base_model", "")),
            base_sha256=str(manifest.get("base_sha256", "")),
            template_sha256=str(manifest.get("template_sha256", "")),
            dataset_version=str((manifest.get("dataset") or {}).get("version", "")),
            rank=int(manifest.get("rank", 0)),
            added=view.added[one].at,
        )


def _check_record(one: str, record: dict[str, Any], champion: str | None) -> None:
    """Only a passed record, of this adapter, judged against the champion of now."""
    if record.get("passed") is not True:
        raise GateError(f"Adapter {one} did not pass the gate: it can't be promoted.")
    if record.get("adapter_id") != one:
        raise GateError(f"The gate record is of adapter {record.get('adapter_id')!r}, not of {one}.")
    if not record.get("evidence_sha256") or not record.get("checks"):
        raise GateError("The gate record names no evidence: evaluate the adapter again.")
    if any(check.get("passed") is not True for check in record["checks"]):
        raise GateError("The gate record says passed, but one of its checks does not: evaluate again.")
    if champion != one and ("champion_id" not in record or record["champion_id"] != champion):
        raise GateError(
            f"The gate compared with champion {record.get('champion_id')!r}, now it is {champion!r}: another "
            "promotion came first, evaluate again."
        )
