"""Settings are documented in `.env.example`, have a description each, and are all used."""

from __future__ import annotations

import ast
from pathlib import Path

from flows import env_example

ROOT = Path(__file__).resolve().parents[2]


def test_env_example_is_what_the_settings_say() -> None:
    file = ROOT / ".env.example"
    assert file.is_file(), "run: python -m flows.env_example > .env.example"
    assert file.read_text("utf-8") == env_example.render(), "run: python -m flows.env_example > .env.example"


def test_all_four_rooms_are_read() -> None:
    rooms = {cls.__module__.split(".")[0] for cls in env_example.settings_classes()}
    assert rooms == set(env_example.ROOMS)


def test_every_field_is_described_and_frozen() -> None:
    for cls in env_example.settings_classes():
        assert cls.model_config.get("frozen") is True, cls
        for name, field in cls.model_fields.items():
            assert field.description, f"{cls.__qualname__}.{name} has no description"
            assert "\n" not in field.description


def test_a_shared_name_means_the_same() -> None:
    """Two programs may read one variable; then its type and default are the same in both."""
    seen: dict[str, tuple[object, object]] = {}
    for cls in env_example.settings_classes():
        for field_name, field in cls.model_fields.items():
            for env_name in env_example.env_names(cls, field_name, field):
                meaning = (field.annotation, field.default)
                assert seen.setdefault(env_name, meaning) == meaning, env_name


def test_every_field_has_an_effect() -> None:
    """Each field is read as an attribute somewhere; or the class is handed on whole."""
    used: set[str] = set()
    calls: set[str] = set()
    for room in env_example.ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            tree = ast.parse(path.read_text("utf-8"))
            used |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
            }
            calls |= {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    unused = [
        f"{cls.__qualname__}.{name}"
        for cls in env_example.settings_classes()
        if not _hands_on_all(cls.__qualname__, calls)
        for name in cls.model_fields
        if name not in used
    ]
    assert unused == []


def _hands_on_all(name: str, calls: set[str]) -> bool:
    """Whether all its fields are handed on at once: by `set_values(Class())`, which iterates over them."""
    return f"set_values({name}())" in calls
