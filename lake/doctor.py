"""Checks the machine before any work starts: `python3 -m lake.doctor` (standard library only, runs before set-up).

Reads the machine, writes nothing. Prints a line a check; exits with 78 (EX_CONFIG) when one fails. A warning
names what will be worse, and how to mend it; it never stops the work.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TESTED_PYTHON = (3, 11)
NEED_DISK_GB = 16.0  # measured: .venv 4.5, .venv-vllm 3.5, models 2.5, pip's cache and build space, data
NEED_MEMORY_GB = 12.0  # the demo's stated peak
EX_CONFIG = 78


@dataclass(frozen=True)
class Check:
    """One line of the report: state is `ok`, `warn` or `fail`; `todo` says how to mend it."""

    name: str
    state: str
    found: str
    todo: str = ""


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Python 3.11 at least; later ones are let through with a warning until they have passed the tests."""
    found = ".".join(map(str, version))
    if version < TESTED_PYTHON:
        return Check("python", "fail", found, "install Python 3.11, then: make PYTHON=python3.11 ...")
    if version > TESTED_PYTHON:
        return Check("python", "warn", found, "only 3.11 is tested; if set-up fails: make PYTHON=python3.11 ...")
    return Check("python", "ok", found)


def check_venv() -> Check:
    """`venv` and `ensurepip` are packages of their own on Debian."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return Check("venv", "fail", "missing", "Debian/Ubuntu: apt-get install python3-venv")
    return Check("venv", "ok", "there")


def check_disk(path: Path, need_gb: float = NEED_DISK_GB) -> Check:
    """Free space where the environments, the models and the data go."""
    have = [entry for entry in (".venv/.ready", ".venv-vllm/.ready") if (path / entry).exists()]
    need = need_gb if len(have) < 2 else 3.0
    free = shutil.disk_usage(path).free / 1e9
    found = f"{free:.0f} GB free, {need:.0f} needed"
    if free < need:
        return Check("disk", "fail", found, f"free some space below {path.resolve()}")
    return Check("disk", "ok", found)


def check_memory(need_gb: float = NEED_MEMORY_GB) -> Check:
    """Memory that can be had without swapping."""
    if not hasattr(os, "sysconf") or not Path("/proc/meminfo").exists():
        return Check("memory", "warn", "unknown", f"the demo's peak is {need_gb:.0f} GB")
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) / 1e6
    found = f"{free:.0f} GB available, {need_gb:.0f} needed"
    if free < need_gb * 0.6:
        return Check("memory", "fail", found, "close other programs, or use a larger machine")
    if free < need_gb:
        return Check("memory", "warn", found, "the demo may swap: close other programs")
    return Check("memory", "ok", found)


def check_loopback() -> Check:
    """A listening socket on 127.0.0.1 and a connection to it."""
    try:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen(1)
            with socket.create_connection(server.getsockname(), timeout=2):
                pass
    except OSError as error:
        return Check("loopback", "fail", str(error), "Mulle's servers talk over 127.0.0.1: allow it")
    return Check("loopback", "ok", "listens and connects")


def port_is_free(port: int) -> bool:
    """Whether 127.0.0.1:`port` can be bound now (0 always can)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def check_ports(ports: Sequence[int]) -> Check:
    """The ports asked for by name; the demo takes free ones by itself."""
    taken = [str(port) for port in ports if not port_is_free(port)]
    if taken:
        return Check("ports", "fail", f"in use: {', '.join(taken)}", "stop what listens there, or choose others")
    return Check("ports", "ok", "free" if ports else "free ones will be taken")


def check_compiler() -> Check:
    """A C compiler and Python's headers: torch and a few packages build small parts on first use."""
    compiler = next(
        (name for name in (os.environ.get("CC", ""), "cc", "gcc", "clang") if name and shutil.which(name)), ""
    )
    if not compiler:
        return Check("compiler", "fail", "none", "Debian/Ubuntu: apt-get install gcc")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "probe.c"
        source.write_text("int main(void) { return 0; }\n")
        done = subprocess.run([compiler, str(source), "-o", str(Path(folder) / "probe")], capture_output=True)
    if done.returncode:
        return Check("compiler", "fail", f"{compiler} can't compile", "Debian/Ubuntu: apt-get install gcc libc6-dev")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return Check(
            "compiler",
            "warn",
            f"{compiler}, no Python.h",
            "if a package must be built: apt-get install python3-dev",
        )
    return Check("compiler", "ok", compiler)


def check_fonts(folders: Sequence[Path] | None = None) -> Check:
    """Korean glyphs for charts: a system font, or the one that set-up brings in a Python package (no root)."""
    usual = (Path("/usr/share/fonts"), Path.home() / ".fonts", Path.home() / ".local/share/fonts")
    for folder in usual if folders is None else folders:
        for pattern in ("Nanum*.ttf", "NotoSansCJK*"):
            hit = next(folder.rglob(pattern), None) if folder.is_dir() else None
            if hit is not None:
                return Check("fonts", "ok", hit.name)
    return Check("fonts", "ok", "none on the system: charts use the packaged NanumGothic")


def check_gpu() -> Check:
    """Which vLLM package fits: the official one beside a CUDA device, else the CPU build."""
    if shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0:
        return Check("gpu", "ok", "CUDA device: the official vllm package")
    return Check("gpu", "ok", f"none: the CPU build of vLLM, {os.cpu_count()} cores, {platform.machine()}")


def run_checks(folder: Path, ports: Sequence[int] = ()) -> list[Check]:
    """All checks in the order in which people can mend them."""
    checks: list[Callable[[], Check]] = [
        check_python, check_venv, lambda: check_disk(folder), check_memory, check_loopback,
        lambda: check_ports(ports), check_compiler, check_fonts, check_gpu,
    ]  # fmt: skip
    return [check() for check in checks]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; 0 when nothing fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--ports", default="", help="comma-separated ports that must be free")
    ports = [int(port) for port in parser.parse_args(argv).ports.split(",") if port.strip()]
    checks = run_checks(Path.cwd(), ports)
    for check in checks:
        print(f"  {check.state:4}  {check.name:9} {check.found}" + (f"  ->  {check.todo}" if check.todo else ""))
    failed = [check.name for check in checks if check.state == "fail"]
    if failed:
        print(f"doctor: {len(failed)} to mend before work can start: {', '.join(failed)}", file=sys.stderr)
    return EX_CONFIG if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
