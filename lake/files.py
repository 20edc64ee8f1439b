"""Files written whole or not at all: temporary name, fsync, rename, fsync of the folder.

Used for every manifest, dataset, index and pointer on disk; a reader never sees half a file.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from lake.errors import DiskSpaceError


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces: the same value has the same bytes, so it can be hashed."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def sha256_bytes(data: bytes) -> str:
    """Hex sha256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def fsync_dir(path: Path) -> None:
    """Make a rename or creation inside `path` durable (POSIX: the directory holds the name)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_bytes_atomic(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Replace `path` by `data` in one step. `mode` (less the umask) holds from the first byte. Safe to retry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(path.parent)


def write_text_atomic(path: Path, text: str) -> None:
    """UTF-8 form of `write_bytes_atomic`."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    """Indented JSON, sorted keys, newline at the end."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    write_bytes_atomic(path, orjson.dumps(value, option=option))


def read_json(path: Path) -> Any:
    """Parsed JSON of a file; `orjson.JSONDecodeError` and `OSError` pass through."""
    return orjson.loads(path.read_bytes())


def swap_symlink(link: Path, target: Path) -> None:
    """Point `link` to `target` (stored relative) in one step; readers see the old or the new one."""
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}.tmp")
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)
    fsync_dir(link.parent)


def require_free_disk(path: Path, need_bytes: int, purpose: str) -> None:
    """Raise `DiskSpaceError` where the file system of `path` has less than `need_bytes` free."""
    probe = path
    while not probe.exists():
        probe = probe.parent
    free = shutil.disk_usage(probe).free
    if free < need_bytes:
        raise DiskSpaceError(
            f"{purpose} needs {need_bytes / 1e9:.1f} GB free below {probe}, there are {free / 1e9:.1f} GB: "
            "free some space or set MULLE_DATA_DIR / MULLE_MODELS_DIR to a larger disk.",
            need_bytes=need_bytes,
            free_bytes=free,
        )
