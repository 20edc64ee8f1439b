"""llama.cpp's own converter from a Hugging Face checkpoint to GGUF, taken out of the llama-cpp-python sdist.

Writes `models/converter/` (convert_hf_to_gguf.py, its `conversion` modules, gguf-py, licence, manifest.json with
sha256 of every file) and runs the script in a process of its own. The sdist is fetched by pip, compared with a
known sha256, and nothing of it is built or kept beside those files.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import orjson

from lake.errors import SetupError
from lake.files import fsync_dir, read_json, require_free_disk, sha256_file, write_json_atomic

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"
# sha256 of llama_cpp_python-0.3.36.tar.gz as pip downloaded it on 2026-11-23.
SDIST_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
_WANTED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/", "LICENSE")
_DOWNLOAD_TIMEOUT_S = 900.0


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` but manifest.json, by path relative to it."""
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and "__pycache__" not in path.parts
    }


def matches_manifest(folder: Path) -> bool:
    """Whether every file that `folder/manifest.json` lists is there with its sha256, and no other is."""
    try:
        files = read_json(folder / "manifest.json")["files"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return False
    return files == file_hashes(folder)


def _download(folder: Path) -> Path:
    """The sdist in `folder`. pip asks the sdist's build system for metadata, so this takes a few seconds more."""
    folder = folder.resolve()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE]
    command += ["--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False, cwd=folder
        )
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"pip did not download {PACKAGE} {VERSION} in time: run the same command again.") from error
    files = list(folder.glob("*.tar.gz"))
    if done.returncode != 0 or len(files) != 1:
        errors = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        last = (errors or ["no output"])[-1]
        raise SetupError(
            f"pip could not download the source package of {PACKAGE} {VERSION} ({last}): "
            "check the package index and run the same command again."
        )
    return files[0]


def unpack(sdist: Path, out_dir: Path) -> None:
    """Take the converter's files, and regular files only, out of `sdist`."""
    with tarfile.open(sdist, "r:gz") as archive:
        for member in archive:
            inner = member.name.partition("/vendor/llama.cpp/")[2]
            if not member.isfile() or not inner.startswith(_WANTED) or ".." in Path(inner).parts:
                continue
            content = archive.extractfile(member)
            assert content is not None  # a regular file always has content
            target = out_dir / inner
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as handle:
                shutil.copyfileobj(content, handle)


def prepare_converter(models_dir: Path) -> dict[str, Any]:
    """Make sure `models/converter` is complete; returns its manifest. Safe to repeat."""
    target = models_dir / "converter"
    if matches_manifest(target):
        return dict(read_json(target / "manifest.json"))
    models_dir.mkdir(parents=True, exist_ok=True)
    require_free_disk(models_dir, 300_000_000, "The GGUF converter")
    with tempfile.TemporaryDirectory(prefix=".converter-", dir=models_dir) as scratch:
        sdist = _download(Path(scratch))
        found = sha256_file(sdist)
        if found != SDIST_SHA256:
            raise SetupError(
                f"{sdist.name} has sha256 {found}, not the known {SDIST_SHA256}: it is not the package this was "
                "built for, so it is not used. Check the package index."
            )
        made = Path(scratch) / "converter"
        unpack(sdist, made)
        manifest = {
            "package": PACKAGE,
            "version": VERSION,
            "sdist_sha256": found,
            "licence": "MIT (llama.cpp)",
            "files": file_hashes(made),
        }
        write_json_atomic(made / "manifest.json", manifest)
        shutil.rmtree(target, ignore_errors=True)
        made.replace(target)
        fsync_dir(models_dir)
    return manifest


def convert(models_dir: Path, hf_dir: Path, out_path: Path, outtype: str, timeout_s: float = 3600.0) -> None:
    """Run the converter on `hf_dir`; writes `out_path` (not atomic: give it a temporary path).

    Raises `SetupError` with the converter's last line where it fails or is missing.
    """
    folder = models_dir / "converter"
    if not matches_manifest(folder):
        raise SetupError(f"{folder} is missing or was changed: run `python -m serving.base_models prepare`.")
    command = [sys.executable, "-B", str((folder / "convert_hf_to_gguf.py").resolve()), str(hf_dir.resolve())]
    command += ["--outfile", str(out_path.resolve()), "--outtype", outtype]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise SetupError(f"The GGUF converter did not end within {timeout_s:.0f} s.") from error
    if done.returncode != 0 or not out_path.is_file():
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise SetupError(
            f"llama.cpp's converter can't convert {hf_dir} ({last}): it may not know this architecture or tokenizer."
        )
