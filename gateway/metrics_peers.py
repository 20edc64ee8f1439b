"""One /metrics for all workers: whoever gets the scrape asks the others and marks each series with its `worker`.

Each worker serves its own series on a Unix socket in `data/run/workers/`, named after its parent and its number, from a
thread: so a worker whose event loop is stuck still shows. A restarted worker counts from 0, as any restarted process
does for Prometheus. In place of prometheus_client's files in a shared folder: those can't hold what is read at the
scrape (the journal's age of unsynced records), grow with every restart, and hide which worker is in trouble.

Invariant: a scrape takes `_TIMEOUT_S` at most per lost worker (all are asked at once), and says which were lost.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

_TIMEOUT_S = 1.0
_SUFFIX = ".sock"


class WorkerPeers:
    """This worker's series for the others, and theirs for its own scrapes. `close` it at the end.

    `family`: what the workers of one parent have in common; `slot`: this worker's number of `count`.
    Raises `OSError` where the folder can't be used.
    """

    def __init__(self, registry: CollectorRegistry, folder: Path, family: str, slot: int, count: int) -> None:
        self._registry = registry
        self._folder = folder
        self._family = family
        self._slot = slot
        self._count = count
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_dead(folder)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        hidden = f".{secrets.token_hex(4)}"
        with _reach(folder) as at:
            self._listener.bind(f"{at}/{hidden}")
            self._listener.listen(16)
            (folder / hidden).replace(folder / self._name(slot))  # only now: a socket without a listener looks dead
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def exposition(self) -> bytes:
        """The series of all workers in Prometheus' text format. Blocks."""
        others = [slot for slot in range(self._count) if slot != self._slot]
        found: dict[int, list[Any] | None] = {self._slot: _families(self._registry)}
        if others:
            with ThreadPoolExecutor(len(others)) as pool:
                found.update(zip(others, pool.map(self._ask, others), strict=True))
        return generate_latest(_Merged(dict(sorted(found.items()))))

    def close(self) -> None:
        """Serve no more. Safe to repeat."""
        with contextlib.suppress(OSError):
            (self._folder / self._name(self._slot)).unlink()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._listener.close()
        self._thread.join(_TIMEOUT_S)

    def _name(self, slot: int) -> str:
        return f"{self._family}-{slot}{_SUFFIX}"

    def _serve(self) -> None:
        while True:
            try:
                asker, _ = self._listener.accept()
            except OSError:
                return
            with asker, contextlib.suppress(OSError):
                asker.settimeout(_TIMEOUT_S)
                asker.sendall(orjson.dumps(_families(self._registry)))

    def _ask(self, slot: int) -> list[Any] | None:
        """Another worker's families; None where it does not answer (it is starting, dead or stopped)."""
        try:
            with _reach(self._folder) as at, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.settimeout(_TIMEOUT_S)
                peer.connect(f"{at}/{self._name(slot)}")
                pieces: list[bytes] = []
                while piece := peer.recv(1 << 16):
                    pieces.append(piece)
            return orjson.loads(b"".join(pieces))
        except (OSError, orjson.JSONDecodeError):
            return None


class _Merged(Collector, CollectorRegistry):
    """Families of several workers as one registry."""

    def __init__(self, found: dict[int, list[Any] | None]) -> None:
        super().__init__()
        self._found = found

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        up = GaugeMetricFamily("mulle_worker_up", "1 where the worker answered this scrape.", labels=["worker"])
        for slot, families in self._found.items():
            worker = {"worker": str(slot)}
            up.add_metric([str(slot)], float(families is not None))
            for name, text, kind, samples in families or ():
                metric = merged.setdefault(name, Metric(name, text, kind))
                for sample, labels, value in samples:
                    metric.add_sample(sample, {**labels, **worker}, value)
        return [up, *merged.values()]


def _families(registry: CollectorRegistry) -> list[Any]:
    """[name, help, type, [[sample, labels, value], ...]] of each metric: what JSON can carry."""
    return [
        [
            metric.name,
            metric.documentation,
            metric.type,
            [[sample.name, sample.labels, sample.value] for sample in metric.samples],
        ]
        for metric in registry.collect()
    ]


@contextlib.contextmanager
def _reach(folder: Path) -> Iterator[str]:
    """A short path to `folder`: the address of a Unix socket holds 107 bytes, and a data folder may lie deep."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{descriptor}"
        yield short if Path(short).exists() else str(folder)
    finally:
        os.close(descriptor)


def _remove_dead(folder: Path) -> Sequence[Path]:
    """Remove the sockets that killed workers have left."""
    dead: list[Path] = []
    for path in folder.glob(f"*{_SUFFIX}"):
        with _reach(folder) as at, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(_TIMEOUT_S)
            try:
                peer.connect(f"{at}/{path.name}")
            except ConnectionRefusedError:
                dead.append(path)
                path.unlink(missing_ok=True)
            except OSError:
                continue
    return dead
