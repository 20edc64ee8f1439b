"""Promises 1 and 2: a power cut loses nothing acknowledged (`sync`), or at most the window (`group`).

ext4 on a loop device; `FS_IOC_SHUTDOWN` without a log flush drops everything that the disk was not told to keep, then
the file system is mounted again and its log replayed. The acknowledged set is taken before the cut. In `group` mode a
lost record may be at most the window plus the slowest fdatasync old. Needs root and loop devices (`why_not`).
Planted bug: without fdatasync the same cut must lose records, else the harness proves nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.acknowledged import WriterProcess, check_journal
from tests.faults.harness import Progress, Tally, cycles_of, quiet, share

NAME, PROMISE, UNIT, FULL = "power", "1, 2", "cuts", 500
GROUP_WINDOW_MS = 50.0  # the default of JournalWriter
_FS_IOC_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
_NO_LOG_FLUSH = struct.pack("I", 2)
_IMAGE_BYTES = 64 << 20


class CutDisk:
    """A file system of its own whose power can be cut."""

    def __init__(self, scratch: Path) -> None:
        self.image = scratch / "disk.img"
        self.mount_point = scratch / "disk"
        self.mount_point.mkdir(parents=True)
        with self.image.open("wb") as image:
            image.truncate(_IMAGE_BYTES)
        _command("mkfs.ext4", "-q", "-F", str(self.image))

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mounted inside the block; a log left by a cut is replayed by the kernel."""
        _command("mount", "-o", "loop", str(self.image), str(self.mount_point))
        try:
            yield self.mount_point
        finally:
            _unmount(self.mount_point)

    def cut(self) -> None:
        """No byte reaches the disk from here on, not even the file system's own log."""
        fd = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _FS_IOC_SHUTDOWN, _NO_LOG_FLUSH)
        finally:
            os.close(fd)


def why_not(scratch: Path) -> str:
    """Why this machine can't do it; empty where it can."""
    if os.geteuid() != 0:
        return "needs root to mount a loop device"
    try:
        disk = CutDisk(scratch / "try")
        with disk.mounted():
            disk.cut()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no ext4 on a loop device here: {error}"
    shutil.rmtree(scratch / "try")
    return ""


def run(cycles: int, seed: int, scratch: Path, progress: Progress = quiet, bug: str = "") -> Tally:
    """`bug`: one that `writer_process` plants."""
    tally = Tally(skipped=why_not(scratch))
    if tally.skipped:
        return tally
    disk = CutDisk(scratch)
    ages_ms: list[float] = []
    for cycle_seed, rng in cycles_of(cycles, seed, tally, progress):
        _cycle(disk, cycle_seed, rng, bug, tally, ages_ms)
    if ages_ms:
        tally.figures["group: oldest lost record"] = f"{share(ages_ms, 1.0):.0f} ms"
    return tally


def _cycle(disk: CutDisk, seed: int, rng: random.Random, bug: str, tally: Tally, ages_ms: list[float]) -> None:
    mode = rng.choice(["sync", "sync", "group"])
    with disk.mounted() as root:
        with WriterProcess(root / "journal", mode, seed, bug) as writer:
            writer.read_for(rng.uniform(0.0, 0.3))
            cut_ns = time.monotonic_ns()
            disk.cut()  # what is acknowledged from here on is not in the set
        acknowledged = writer.acknowledged
    with disk.mounted() as root:
        missing = check_journal(root / "journal", acknowledged, seed, tally)
        shutil.rmtree(root / "journal", ignore_errors=True)
    tally.counts[f"{mode} cuts"] += 1
    tally.counts["acknowledged"] += len(acknowledged.at_ns)
    tally.counts[f"{mode} lost"] += len(missing)
    if mode == "sync":
        tally.check(not missing, seed, f"{len(missing)} acknowledged records lost, e.g. {sorted(missing)[:3]}")
    elif missing:
        oldest_ms = (cut_ns - min(acknowledged.at_ns[key] for key in missing)) / 1e6
        ages_ms.append(oldest_ms)
        limit_ms = GROUP_WINDOW_MS + acknowledged.slowest_sync_ms
        tally.check(oldest_ms <= limit_ms, seed, f"a lost record was {oldest_ms:.0f} ms old, limit {limit_ms:.0f} ms")


def _command(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _unmount(mount_point: Path) -> None:
    for _ in range(50):  # a killed process may take a moment to let its files go
        if subprocess.run(["umount", str(mount_point)], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)
    raise AssertionError(f"{mount_point} can't be unmounted")
