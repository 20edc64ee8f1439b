"""Each check of the doctor: ok, warn and fail."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from lake import doctor

ROOT = Path(__file__).resolve().parents[2]
Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 12), "warn"), ((3, 14), "warn")]
)
def test_python(version: tuple[int, int], state: str) -> None:
    check = doctor.check_python(version)
    assert check.state == state
    assert bool(check.todo) == (state != "ok")


def test_venv(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_venv().state == "ok"
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    assert doctor.check_venv().state == "fail"


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(0, 0, 10e9))
    assert doctor.check_disk(tmp_path).state == "fail"
    assert str(tmp_path) in doctor.check_disk(tmp_path).todo
    assert doctor.check_disk(tmp_path, need_gb=9.0).state == "ok"
    for name in (".venv", ".venv-vllm"):  # set-up done: only room for data is needed
        (tmp_path / name).mkdir()
        (tmp_path / name / ".ready").touch()
    assert doctor.check_disk(tmp_path).state == "ok"


def test_memory() -> None:
    assert doctor.check_memory(need_gb=0.01).state == "ok"
    assert doctor.check_memory(need_gb=1e6).state == "fail"
    available = float(doctor.check_memory(need_gb=0.01).found.split()[0])
    assert doctor.check_memory(need_gb=(available + 0.5) * 1.2).state == "warn"


def test_memory_is_unknown_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(doctor.os, "sysconf")
    assert doctor.check_memory().state == "warn"


def test_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_loopback().state == "ok"

    def refused(*args: object, **kwargs: object) -> socket.socket:
        raise OSError("refused")

    monkeypatch.setattr(doctor.socket, "create_connection", refused)
    assert (doctor.check_loopback().state, doctor.check_loopback().found) == ("fail", "refused")


def test_ports() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        check = doctor.check_ports([port])
        assert check.state == "fail" and str(port) in check.found
        assert not doctor.port_is_free(port)
    assert doctor.check_ports([port]).state == "ok"
    assert doctor.check_ports([]).state == "ok"


def test_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_text("#!/bin/sh\nexit 0\n")
    bad = tmp_path / "bad"
    bad.write_text("#!/bin/sh\nexit 1\n")
    for tool in (good, bad):
        tool.chmod(0o755)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(doctor.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setenv("CC", str(good))
    assert doctor.check_compiler().state == "ok"
    monkeypatch.setattr(doctor.sysconfig, "get_paths", lambda: {"include": str(tmp_path / "none")})
    assert doctor.check_compiler().state == "warn"
    monkeypatch.setenv("CC", str(bad))
    assert doctor.check_compiler().state == "fail"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert (doctor.check_compiler().state, doctor.check_compiler().found) == ("fail", "none")


def test_fonts_need_no_root(tmp_path: Path) -> None:
    found = doctor.check_fonts([tmp_path / "missing", tmp_path])
    assert found.state == "ok" and "packaged" in found.found
    (tmp_path / "truetype").mkdir()
    (tmp_path / "truetype" / "NanumGothic.ttf").touch()
    assert doctor.check_fonts([tmp_path]).found == "NanumGothic.ttf"


def test_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert "CPU build" in doctor.check_gpu().found
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(doctor.subprocess, "run", lambda command, **kwargs: subprocess.CompletedProcess(command, 0))
    assert "CUDA" in doctor.check_gpu().found


def test_exit_code_and_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "run_checks", lambda folder, ports: [doctor.Check("disk", "fail", "1 GB", "free some")])
    assert doctor.main([]) == doctor.EX_CONFIG
    printed = capsys.readouterr()
    assert "free some" in printed.out and "disk" in printed.err
    monkeypatch.setattr(doctor, "run_checks", lambda folder, ports: [doctor.Check("disk", "warn", "9 GB", "x")])
    assert doctor.main([]) == 0


def test_runs_with_the_standard_library_alone() -> None:
    """It is started before any package is installed: -I -S keeps site-packages out."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import lake.doctor as d; d.run_checks; print('ready')"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "ready", done.stderr


def test_all_checks_run_here() -> None:
    names = [check.name for check in doctor.run_checks(ROOT)]
    assert names == ["python", "venv", "disk", "memory", "loopback", "ports", "compiler", "fonts", "gpu"]
