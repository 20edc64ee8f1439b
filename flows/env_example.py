"""Prints `.env.example`: every setting with its default and what it means, out of the settings classes themselves.

    python -m flows.env_example > .env.example

Reads no environment and writes nothing but its output; a test compares it with the file in the repository. The
rooms are named as text and loaded here only: flows may not import gateway, and nothing of it is called.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

ROOMS = ("lake", "serving", "gateway", "flows")
HEAD = """\
# Every setting of Mulle with its default. Copy to .env, change what you need, then: set -a; source .env; set +a
# Made by `python -m flows.env_example`; do not edit by hand.
"""
ROOT = Path(__file__).resolve().parent.parent
_CLASS = re.compile(r"^class \w+\(BaseSettings\):", re.MULTILINE)


def settings_modules() -> list[str]:
    """Modules of the four rooms that define settings, found by their source: only those are imported."""
    found: list[str] = []
    for room in ROOMS:
        files = [path for path in sorted((ROOT / room).rglob("*.py")) if _CLASS.search(path.read_text("utf-8"))]
        found += [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files]
    return found


def settings_classes() -> list[type[BaseSettings]]:
    """The settings classes of all rooms, sorted by class name."""
    classes: list[type[BaseSettings]] = []
    for name in settings_modules():
        classes += [
            value
            for value in vars(importlib.import_module(name)).values()
            if isinstance(value, type) and issubclass(value, BaseSettings) and value.__module__ == name
        ]
    return sorted(classes, key=lambda cls: (cls.__qualname__, cls.__module__))


def env_names(cls: type[BaseSettings], name: str, field: FieldInfo) -> list[str]:
    """Environment names of a field: its alias or aliases where it has some, else prefix and name."""
    alias = field.validation_alias
    if alias is None:
        return [f"{cls.model_config.get('env_prefix', '')}{name}".upper()]
    choices: list[Any] = list(getattr(alias, "choices", [alias]))
    return [str(choice) for choice in choices if isinstance(choice, str)]


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value is PydanticUndefined:
        return ""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path) and value.is_relative_to(ROOT):
        return str(value.relative_to(ROOT))
    return str(value)


def render() -> str:
    """The whole file, with a newline at its end."""
    parts = [HEAD]
    for cls in settings_classes():
        lines = [f"# --- {cls.__module__}.{cls.__qualname__} ---"]
        for name, field in cls.model_fields.items():
            lines.append(f"# {field.description or ''}".rstrip())
            lines.append(f"#{env_names(cls, name, field)[0]}={_default(field)}")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(render(), end="")
