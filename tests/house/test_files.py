"""Size, place and docstrings of files: small rooms stay readable."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("lake", "serving", "gateway", "flows")
MAX_LINES = 400
MEDIAN_LINES = 150


def room_files() -> list[Path]:
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def test_no_file_is_too_long() -> None:
    sizes = {str(path.relative_to(ROOT)): lines(path) for path in room_files()}
    assert {name: size for name, size in sizes.items() if size > MAX_LINES} == {}


def test_the_median_file_is_short() -> None:
    sizes = [lines(path) for path in room_files() if path.name != "__init__.py"]
    assert len(sizes) > 20
    assert statistics.median(sizes) < MEDIAN_LINES


def test_no_python_in_the_root() -> None:
    assert sorted(path.name for path in ROOT.glob("*.py")) == []


def test_no_grab_bags() -> None:
    names = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert [str(path) for path in room_files() if path.name in names] == []


def test_tests_are_no_packages() -> None:
    assert sorted(map(str, (ROOT / "tests").rglob("__init__.py"))) == []


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions and classes without a docstring.

    Left out: `main` and `make_parser` (the module docstring says how to run it) and classes of constants only, like
    the errors, whose module docstring draws them.
    """
    missing: list[str] = []
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        constants = isinstance(node, ast.ClassDef) and all(isinstance(s, ast.Assign | ast.Pass) for s in node.body)
        if node.name not in ("main", "make_parser") and not constants and not ast.get_docstring(node):
            missing.append(f"{node.name}:{node.lineno}")
    return missing


def test_undocumented_is_noticed() -> None:
    tree = ast.parse('def f():\n    return 1\n\ndef _g():\n    pass\n\nclass C:\n    """c"""\n    def m(self): pass\n')
    assert undocumented(tree) == ["f:1"]


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings(room: str) -> None:
    missing: dict[str, list[str]] = {}
    for path in sorted((ROOT / room).rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        problems = undocumented(tree)
        if tree.body and not ast.get_docstring(tree):
            problems.insert(0, "module")
        if problems:
            missing[str(path.relative_to(ROOT))] = problems
    assert missing == {}
