"""The files of an adapter, checked before anyone loads them: exact allow-list, sha256, parsed header, no way
out.

Reads an adapter folder. Invariant: `check_files` returns only for a folder of plain, allowed files whose
hashes match its manifest; nothing is unpickled or executed.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import Any

import orjson

from lake.errors import AdapterError
from lake.files import read_json, sha256_file

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
ALLOWED = frozenset(
    {
        WEIGHTS, CONFIG, MANIFEST, "README.md", "metrics.json", "training_config.json", "environment.json",
        "reference.json",
    }
)  # fmt: skip
ID_LENGTH = 16
_MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors itself


def adapter_id(folder: Path) -> str:
    """Content address: the first 16 hex digits of sha256 over the weights and the peft config."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        file = folder / name
        if not file.is_file() or file.is_symlink():
            raise AdapterError(f"{folder} has no plain file {name}: it is not an adapter that Mulle can use.")
        digest.update(bytes.fromhex(sha256_file(file)))
    return digest.hexdigest()[:ID_LENGTH]


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an adapter folder. Raises `AdapterError`."""
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, orjson.JSONDecodeError) as error:
        raise AdapterError(f"{folder / MANIFEST} can't be read ({error}): train the adapter again.") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise AdapterError(f"{folder / MANIFEST} names no files: train the adapter again.")
    return manifest


def check_files(folder: Path) -> dict[str, Any]:
    """The manifest, once every file agrees with it. Raises `AdapterError` saying which file does not and why."""
    if folder.is_symlink() or not folder.is_dir():
        raise AdapterError(f"{folder} is not a folder of an adapter.")
    manifest = read_manifest(folder)
    listed: dict[str, Any] = manifest["files"]
    for file in sorted(folder.iterdir()):
        if file.name not in ALLOWED:
            raise AdapterError(f"{file} is not allowed in an adapter (safetensors and JSON only): remove it.")
        if file.is_symlink() or not file.is_file():
            raise AdapterError(f"{file} is not a plain file: an adapter must not point elsewhere.")
        if file.name != MANIFEST and file.name not in listed:
            raise AdapterError(f"{file} is not named by the manifest: train the adapter again.")
    for name, facts in listed.items():
        if name not in ALLOWED:
            raise AdapterError(f"The manifest of {folder} names {name!r}, which no adapter has.")
        want = facts.get("sha256") if isinstance(facts, dict) else None
        file = folder / name
        if not file.is_file() or sha256_file(file) != want:
            raise AdapterError(f"{file} is missing or was changed (sha256 differs): do not serve this adapter.")
    if WEIGHTS not in listed or CONFIG not in listed:
        raise AdapterError(f"The manifest of {folder} names no weights or no config.")
    check_safetensors(folder / WEIGHTS)
    _check_config(folder, manifest)
    return manifest


def check_safetensors(path: Path) -> dict[str, Any]:
    """The header of a safetensors file whose tensors lie exactly inside it. Raises `AdapterError`."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise AdapterError(f"{path} is not a whole safetensors file (header of {length} bytes).")
        try:
            header = orjson.loads(handle.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise AdapterError(f"{path} has a damaged safetensors header ({error!r}).") from error
    if not ends or max(ends) != size - 8 - length:
        raise AdapterError(f"{path} is truncated or has bytes too many: copy or train it again.")
    return header


def _check_config(folder: Path, manifest: dict[str, Any]) -> None:
    try:
        config = read_json(folder / CONFIG)
    except orjson.JSONDecodeError as error:
        raise AdapterError(f"{folder / CONFIG} is not JSON: {error}.") from error
    problems = [
        problem
        for holds, problem in (
            (config.get("peft_type") == "LORA", "peft_type is not LORA"),
            (not config.get("use_dora"), "DoRA can't be served"),
            (not config.get("modules_to_save"), "modules_to_save can't be served"),
            ("auto_mapping" not in config or not config["auto_mapping"], "auto_mapping is not allowed"),
            (config.get("r") == manifest.get("rank"), "rank differs from the manifest"),
            (
                config.get("base_model_name_or_path") == manifest.get("base_model"),
                "base model differs from the manifest",
            ),
        )
        if not holds
    ]
    if problems:
        raise AdapterError(f"{folder / CONFIG}: {'; '.join(problems)}.")
