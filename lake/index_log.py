"""Which index versions were built here, and which served: the record that decides what may be loaded.

Reads and writes a chained log (`lake/chained_log.py`), by default `data/index/log.jsonl`. A version is known by the
sha256 of its manifest, which holds the sha256 of every file. Invariant: a folder that is not recorded, or whose
manifest is not the recorded one, is never loaded and never taken for built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lake.chained_log import ChainedLog
from lake.errors import IndexUnusableError

IndexEvent = Literal["build", "serve", "rollback"]


class IndexLog:
    """`build`: a version was written; `serve`: `current` points to it; `rollback`: `current` left it for the one
    before. Safe in several processes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._log = ChainedLog(path, IndexUnusableError)

    def add(self, kind: IndexEvent, version: str, manifest_sha256: str, **facts: Any) -> None:
        """Append one event; durable on return. Raises `IndexUnusableError` where the log is damaged."""
        with self._log.locked():
            self._log.read()  # never go on from a broken chain
            self._log.append({"kind": kind, "version": version, "manifest_sha256": manifest_sha256, **facts})

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first. Raises `IndexUnusableError` where the log is damaged."""
        return self._log.read()

    def knows(self, version: str, manifest_sha256: str) -> bool:
        """Whether the newest build of `version` had this manifest."""
        return bool(manifest_sha256) and self.built(version) == manifest_sha256

    def built(self, version: str) -> str:
        """sha256 of the manifest of the newest build of `version`; empty where there was none."""
        built = [row for row in self.events() if row.get("kind") == "build" and row.get("version") == version]
        return str(built[-1].get("manifest_sha256")) if built else ""

    def served(self) -> list[str]:
        """The versions that a rollback may go back to and the one in service, oldest first; a version that was
        left by a rollback is none of them.
        """
        line: list[str] = []
        for row in self.events():
            version = str(row.get("version"))
            if row.get("kind") in ("serve", "rollback"):
                line = [other for other in line if other != version]
            if row.get("kind") == "serve":
                line.append(version)
        return line
