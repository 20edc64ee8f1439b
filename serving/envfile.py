"""The gateway's env file: KEY=VALUE lines, owner-only, replaced in one step.

Reads and writes `data/run/gateway.env` (LLM_API_BASE, LLM_MODEL_NAME, LLM_API_KEY, LLM_PROFILE, LLM_ADAPTER,
LLM_GENERATION). Invariant: a reader sees the old or the new content, whole, and never a world-readable key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lake.errors import SetupError
from lake.files import write_bytes_atomic

_KEY = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


def parse_env(text: str, source: str = "env file") -> dict[str, str]:
    """Keys and values; `#` lines and empty ones are skipped, `export ` and surrounding quotes taken off."""
    found: dict[str, str] = {}
    # Not `splitlines`, which also ends a line at form feeds and at Unicode's own line breaks: a value may hold those.
    for number, raw in enumerate(re.split(r"\r\n|\n|\r", text), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.removeprefix("export ").partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not _KEY.match(key):
            raise SetupError(f"{source}, line {number}: expected NAME=value.", line=number)
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[key] = value
    return found


def read_env_file(path: Path) -> dict[str, str]:
    """Raises `SetupError` where the file is missing, is not text or has a line that is not NAME=value."""
    try:
        return parse_env(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"The env file {path} can't be read ({error}): create it, or unset MULLE_ENV_FILE.") from error


def write_env_file(path: Path, values: Mapping[str, str]) -> None:
    """Replace the file in one step, mode 0600 from its first byte. Raises `SetupError` on a value with a line
    break.
    """
    lines: list[str] = []
    for key, value in values.items():
        if not _KEY.match(key) or any(char in value for char in "\r\n\0"):
            raise SetupError(f"{key} can't be written to {path}: a value is one line of text.")
        bare = value == value.strip() and value[:1] not in ("'", '"')
        lines.append(f"{key}={value}\n" if bare else f'{key}="{value}"\n')
    write_bytes_atomic(path, "".join(lines).encode("utf-8"), 0o600)
